package main

import (
	"context"
	"net/http"
	"net/http/httptest"
	"path"
	"strings"
	"time"

	"github.com/vmware/govmomi/vim25/types"
)

// rule makes requests fail. Of the requests whose method matches, the first Skip pass, the next Count fail
// (all of them when Count is 0).
type rule struct {
	Method string `json:"method"` // a shell pattern; requests for datastore files are called "folder"
	Path   string `json:"path"`   // a shell pattern for the name of a datastore file; empty fits all
	Skip   int    `json:"skip"`
	Count  int    `json:"count"`
	Kind   string `json:"kind"`
	Millis int    `json:"millis"`
	Fault  string `json:"fault"`
	Status int    `json:"status"`

	matched int
}

// next takes note of a request and gives the rule that applies to it.
func (f *front) next(method, file string) *rule {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.seen = append(f.seen, method)
	f.flying[method]++
	f.peak[method] = max(f.peak[method], f.flying[method])
	for _, r := range f.rules {
		if ok, _ := path.Match(r.Method, method); !ok {
			continue
		}
		if ok, _ := path.Match(r.Path, path.Base(file)); !ok && r.Path != "" {
			continue
		}
		r.matched++
		if r.matched > r.Skip && (r.Count == 0 || r.matched <= r.Skip+r.Count) {
			return r
		}
	}
	return nil
}

func (f *front) landed(method string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.flying[method]--
}

// withFaults serves a request, unless a rule says that it must go wrong, and how.
func (f *front) withFaults(w http.ResponseWriter, r *http.Request, method string, body []byte, serve func(http.ResponseWriter)) {
	rule := f.next(method, r.URL.Path)
	defer f.landed(method)
	if rule == nil {
		serve(w)
		return
	}
	switch rule.Kind {
	case "status": // an overloaded or broken server
		http.Error(w, http.StatusText(rule.Status), rule.Status)
	case "drop": // the connection breaks before the request is carried out
		panic(http.ErrAbortHandler)
	case "drop-after": // the request is carried out, and its answer lost
		serve(httptest.NewRecorder())
		panic(http.ErrAbortHandler)
	case "expire": // the session has ended
		f.end(cookie(r))
		serve(w)
	case "slow":
		pause(r.Context(), rule.Millis)
		serve(w)
	case "slow-body": // the head comes at once, the body later and in two parts
		answer := httptest.NewRecorder()
		serve(answer)
		text := answer.Body.Bytes()
		for name, values := range answer.Header() {
			w.Header()[name] = values
		}
		w.WriteHeader(answer.Code)
		_, _ = w.Write(text[:len(text)/2])
		_ = http.NewResponseController(w).Flush()
		pause(r.Context(), rule.Millis)
		_, _ = w.Write(text[len(text)/2:])
	case "cut-body": // the answer ends in the middle
		answer := httptest.NewRecorder()
		serve(answer)
		for name, values := range answer.Header() {
			w.Header()[name] = values
		}
		w.WriteHeader(answer.Code)
		_, _ = w.Write(answer.Body.Bytes()[:answer.Body.Len()/2])
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	case "garbage":
		w.Header().Set("Content-Type", "text/xml")
		_, _ = w.Write([]byte("<html><body>it works!</body>"))
	case "fault":
		soapFault(w, rule.Fault, "injected")
	case "task-fail": // the task is accepted and fails
		answerTask(w, method, f.world.failingTask(rule.Fault))
	case "task-hang": // the task never ends
		answerTask(w, method, f.world.task(func() (types.AnyType, types.BaseMethodFault) { select {} }))
	case "task-slow": // the task is accepted and does its work later
		clone := r.Clone(f.world.context)
		answerTask(w, method, f.world.task(func() (types.AnyType, types.BaseMethodFault) {
			pause(f.world.context, rule.Millis)
			answer := httptest.NewRecorder()
			f.soap(answer, clone, method, body)
			return f.world.result(taskOf(answer))
		}))
	default:
		http.Error(w, "no such fault: "+strings.ToValidUTF8(rule.Kind, "?"), http.StatusTeapot)
	}
}

// pause waits, but no longer than somebody is interested.
func pause(ctx context.Context, n int) {
	select {
	case <-ctx.Done():
	case <-time.After(millis(n)):
	}
}
