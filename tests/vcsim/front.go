package main

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/types"
)

const cookieName = "vmware_soap_session"

const envelope = `<?xml version="1.0" encoding="UTF-8"?><soapenv:Envelope xmlns:soapenv="http://schemas.xmlsoap.org/soap/envelope/" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"><soapenv:Body>%s</soapenv:Body></soapenv:Envelope>`

var (
	methodPattern = regexp.MustCompile(`Body>\s*<(\w+)`)
	thisPattern   = regexp.MustCompile(`<_this[^>]*type="(\w+)"[^>]*>([^<]+)</_this>`)
	taskPattern   = regexp.MustCompile(`<returnval[^>]*type="Task"[^>]*>([^<]+)</returnval>`)
)

// front stands between the client and the simulator.
type front struct {
	world   *world
	proxy   *httputil.ReverseProxy
	address string

	mu       sync.Mutex
	rules    []*rule
	seen     []string             // method names in the order they came
	flying   map[string]int       // requests being served, by method
	peak     map[string]int       // most of them at once
	sessions map[string]time.Time // cookies of living sessions, and when they were last used
	idle     time.Duration        // sessions end after so much silence; 0 for never
}

func newFront(model *simulator.Model, back *url.URL) *front {
	f := &front{world: newWorld(model), proxy: httputil.NewSingleHostReverseProxy(back), sessions: map[string]time.Time{}, flying: map[string]int{}, peak: map[string]int{}}
	f.proxy.ErrorLog = log.New(io.Discard, "", 0)
	f.proxy.ModifyResponse = func(r *http.Response) error {
		for _, c := range r.Cookies() {
			if c.Name == cookieName {
				f.mu.Lock()
				f.sessions[strings.Trim(c.Value, `"`)] = time.Now()
				f.mu.Unlock()
			}
		}
		return nil
	}
	return f
}

func (f *front) listen(certificate tls.Certificate) *http.Server {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fatal(err)
	}
	f.address = listener.Addr().String()
	server := &http.Server{
		Handler:   f,
		TLSConfig: &tls.Config{Certificates: []tls.Certificate{certificate}, NextProtos: []string{"http/1.1"}},
		ErrorLog:  log.New(io.Discard, "", 0),
	}
	go func() { _ = server.ServeTLS(listener, "", "") }()
	return server
}

// ServeHTTP handles one request of the client.
func (f *front) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/sdk" && r.Method == http.MethodPost {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		method := "unknown"
		if m := methodPattern.FindSubmatch(body); m != nil {
			method = string(m[1])
		}
		f.withFaults(w, r, method, body, func(w http.ResponseWriter) { f.soap(w, r, method, body) })
		return
	}
	if strings.HasPrefix(r.URL.Path, "/folder/") {
		f.withFaults(w, r, "folder", nil, func(w http.ResponseWriter) {
			if !f.authenticated(r) {
				w.Header().Set("WWW-Authenticate", `Basic realm="VMware HTTP server"`)
				http.Error(w, "401 Unauthorized", http.StatusUnauthorized)
				return
			}
			f.proxy.ServeHTTP(w, r)
		})
		return
	}
	f.proxy.ServeHTTP(w, r)
}

func cookie(r *http.Request) string {
	c, err := r.Cookie(cookieName)
	if err != nil {
		return ""
	}
	return strings.Trim(c.Value, `"`)
}

// authenticated tells whether the request carries a living session.
func (f *front) authenticated(r *http.Request) bool {
	name := cookie(r)
	f.mu.Lock()
	last, ok := f.sessions[name]
	silent := f.idle > 0 && time.Since(last) > f.idle
	if ok && !silent {
		f.sessions[name] = time.Now()
	}
	f.mu.Unlock()
	if ok && silent {
		f.end(name)
	}
	return ok && !silent
}

// end ends a session, here and in the simulator.
func (f *front) end(name string) {
	f.mu.Lock()
	delete(f.sessions, name)
	f.mu.Unlock()
	if name == "" {
		return
	}
	manager := f.world.model.ServiceContent.SessionManager
	body := fmt.Sprintf(envelope, fmt.Sprintf(`<Logout xmlns="urn:vim25"><_this type="%s">%s</_this></Logout>`, manager.Type, manager.Value))
	r := httptest.NewRequest(http.MethodPost, "/sdk", strings.NewReader(body))
	r.AddCookie(&http.Cookie{Name: cookieName, Value: name})
	r.Header.Set("Content-Type", "text/xml")
	f.proxy.ServeHTTP(httptest.NewRecorder(), r)
}

// endAll ends every session, as a server does that is started again.
func (f *front) endAll() {
	f.mu.Lock()
	var names []string
	for name := range f.sessions {
		names = append(names, name)
	}
	f.mu.Unlock()
	for _, name := range names {
		f.end(name)
	}
}

func (f *front) soap(w http.ResponseWriter, r *http.Request, method string, body []byte) {
	anonymous := method == "Login" || method == "RetrieveServiceContent"
	if !anonymous && !f.authenticated(r) {
		soapFault(w, "NotAuthenticated", "The session is not authenticated.")
		return
	}
	var this types.ManagedObjectReference
	if m := thisPattern.FindSubmatch(body); m != nil {
		this = types.ManagedObjectReference{Type: string(m[1]), Value: string(m[2])}
	}
	switch method {
	case "QueryChangedDiskAreas":
		f.world.changedAreas(w, body)
	case "ConsolidateVMDisks_Task":
		answerTask(w, method, f.world.consolidate(this))
	case "DisableMethods", "EnableMethods":
		f.world.relocation(w, method, body)
	case "CreateSnapshot_Task", "CreateSnapshotEx_Task":
		f.world.remember(body)
		answer := f.forward(r, body)
		if f.world.wait(taskOf(answer)) {
			f.world.growDeltas(this)
		}
		replay(w, answer)
	case "RemoveSnapshot_Task":
		merge := f.world.mergeOf(this)
		answer := f.forward(r, body)
		if f.world.wait(taskOf(answer)) {
			merge()
		}
		replay(w, answer)
	case "Logout":
		answer := f.forward(r, body)
		f.mu.Lock()
		delete(f.sessions, cookie(r))
		f.mu.Unlock()
		replay(w, answer)
	case "HasPrivilegeOnEntities":
		answer := f.forward(r, body)
		f.world.deny(answer)
		replay(w, answer)
	case "CurrentTime":
		answer := f.forward(r, body)
		f.world.shift(answer)
		replay(w, answer)
	default:
		replay(w, f.forward(r, body))
	}
}

// forward passes a request on to the simulator and keeps the answer.
func (f *front) forward(r *http.Request, body []byte) *httptest.ResponseRecorder {
	again := r.Clone(r.Context())
	again.Body = io.NopCloser(bytes.NewReader(body))
	again.ContentLength = int64(len(body))
	answer := httptest.NewRecorder()
	f.proxy.ServeHTTP(answer, again)
	return answer
}

func taskOf(answer *httptest.ResponseRecorder) string {
	if m := taskPattern.FindSubmatch(answer.Body.Bytes()); m != nil {
		return string(m[1])
	}
	return ""
}

func replay(w http.ResponseWriter, answer *httptest.ResponseRecorder) {
	for name, values := range answer.Header() {
		w.Header()[name] = values
	}
	w.WriteHeader(answer.Code)
	_, _ = w.Write(answer.Body.Bytes())
}

func soapAnswer(w http.ResponseWriter, text string) {
	w.Header().Set("Content-Type", "text/xml")
	_, _ = fmt.Fprintf(w, envelope, text)
}

func answerTask(w http.ResponseWriter, method, task string) {
	soapAnswer(w, fmt.Sprintf(`<%sResponse xmlns="urn:vim25"><returnval type="Task">%s</returnval></%sResponse>`, method, task, method))
}

func soapFault(w http.ResponseWriter, kind, text string) {
	w.Header().Set("Content-Type", "text/xml")
	w.WriteHeader(http.StatusInternalServerError)
	_, _ = fmt.Fprintf(w, envelope, fmt.Sprintf(`<soapenv:Fault><faultcode>ServerFaultCode</faultcode><faultstring>%s</faultstring><detail><%sFault xmlns="urn:vim25" xsi:type="%s"/></detail></soapenv:Fault>`, text, kind, kind))
}

func millis(n int) time.Duration { return time.Duration(n) * time.Millisecond }
