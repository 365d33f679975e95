package main

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/vmware/govmomi/property"
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"
)

type backing = types.VirtualDiskFlatVer2BackingInfo

// world is the simulator's inventory, and what this program adds to it.
type world struct {
	model   *simulator.Model
	context context.Context

	mu       sync.Mutex
	deltas   int
	tasks    int
	disabled map[string]string // VM: who has disabled moving it
	changed  map[string]*changes
	denied   []string      // privileges that the account lacks
	ahead    time.Duration // how far the server's clock is ahead
	quiesce  string        // how the last snapshot was asked to be quiesced, as XML
}

type changes struct {
	Areas  [][2]int64 `json:"areas"`
	Page   int64      `json:"page"`
	Broken string     `json:"broken"`
}

func newWorld(model *simulator.Model) *world {
	return &world{model: model, context: context.Background(), disabled: map[string]string{}, changed: map[string]*changes{}}
}

// fresh is a lock owner of its own: the simulator's locks belong to contexts.
func (w *world) fresh() *simulator.Context {
	return &simulator.Context{Context: w.context, Map: w.model.Map()}
}

func (w *world) vm(ref types.ManagedObjectReference) *simulator.VirtualMachine {
	vm, _ := w.model.Map().Get(ref).(*simulator.VirtualMachine)
	return vm
}

func (w *world) named(name string) *simulator.VirtualMachine {
	for _, entity := range w.model.Map().All("VirtualMachine") {
		if vm := entity.(*simulator.VirtualMachine); vm.Name == name {
			return vm
		}
	}
	return nil
}

// folder is the directory that stands for a datastore.
func (w *world) folder(datastore string) string {
	for _, entity := range w.model.Map().All("Datastore") {
		if ds := entity.(*simulator.Datastore); ds.Name == datastore {
			return ds.Summary.Url
		}
	}
	return ""
}

func split(name string) (datastore, path string) {
	datastore, path, _ = strings.Cut(strings.TrimPrefix(name, "["), "] ")
	return
}

func (w *world) local(name string) string {
	datastore, path := split(name)
	return filepath.Join(w.folder(datastore), path)
}

func disks(devices []types.BaseVirtualDevice) []*types.VirtualDisk {
	var out []*types.VirtualDisk
	for _, device := range devices {
		if disk, ok := device.(*types.VirtualDisk); ok {
			out = append(out, disk)
		}
	}
	return out
}

// growDeltas does to the disks what a real host does when a snapshot is made: the VM goes on with a new
// file whose parent is the one frozen in the snapshot. The new file cannot be read as a disk.
func (w *world) growDeltas(ref types.ManagedObjectReference) {
	vm := w.vm(ref)
	if vm == nil {
		return
	}
	w.fresh().WithLock(vm, func() {
		for _, disk := range disks(vm.Config.Hardware.Device) {
			old, ok := disk.Backing.(*backing)
			if !ok || strings.HasPrefix(old.DiskMode, "independent") {
				continue
			}
			w.mu.Lock()
			w.deltas++
			number := w.deltas
			w.mu.Unlock()
			stem := regexp.MustCompile(`(-\d{6})?\.vmdk$`).ReplaceAllString(old.FileName, "")
			next := *old
			next.FileName = fmt.Sprintf("%s-%06d.vmdk", stem, number)
			next.Parent = old
			next.ChangeId = fmt.Sprintf("52 de ad be ef 00 00 01-00 00 00 00 00 00 00 01/%d", number)
			disk.Backing = &next
			_ = os.WriteFile(w.local(next.FileName), []byte("written to by a running VM\n"), 0o600)
		}
	})
}

// mergeOf prepares what removing a snapshot does to the disks: the file made on top of the snapshot's goes,
// and its content moves into the snapshot's.
func (w *world) mergeOf(ref types.ManagedObjectReference) func() {
	snapshot, _ := w.model.Map().Get(ref).(*simulator.VirtualMachineSnapshot)
	if snapshot == nil {
		return func() {}
	}
	frozen := map[string]*backing{}
	for _, disk := range disks(snapshot.Config.Hardware.Device) {
		if b, ok := disk.Backing.(*backing); ok {
			frozen[b.FileName] = b
		}
	}
	vm := w.vm(snapshot.Vm)
	return func() {
		w.fresh().WithLock(vm, func() {
			merge(disks(vm.Config.Hardware.Device), frozen, w)
			for _, other := range w.model.Map().AllReference("VirtualMachineSnapshot") {
				if s, ok := other.(*simulator.VirtualMachineSnapshot); ok && s.Vm == snapshot.Vm {
					merge(disks(s.Config.Hardware.Device), frozen, w)
				}
			}
		})
	}
}

// merge takes out of each chain the file whose parent is frozen.
func merge(of []*types.VirtualDisk, frozen map[string]*backing, w *world) {
	for _, disk := range of {
		at, ok := disk.Backing.(*backing)
		if !ok {
			continue
		}
		if at.Parent != nil && frozen[at.Parent.FileName] != nil {
			_ = os.Remove(w.local(at.FileName))
			disk.Backing = at.Parent
			continue
		}
		for ; at.Parent != nil; at = at.Parent {
			if over := at.Parent; over.Parent != nil && frozen[over.Parent.FileName] != nil {
				_ = os.Remove(w.local(over.FileName))
				at.Parent = over.Parent
				break
			}
		}
	}
}

// task starts a task that belongs to nothing, so that it locks nothing.
func (w *world) task(run func() (types.AnyType, types.BaseMethodFault)) string {
	w.mu.Lock()
	w.tasks++
	entity := types.ManagedObjectReference{Type: "Folder", Value: "injected-" + strconv.Itoa(w.tasks)}
	w.mu.Unlock()
	task := simulator.CreateTask(entity, "injected", func(*simulator.Task) (types.AnyType, types.BaseMethodFault) {
		return run()
	})
	return task.Run(w.fresh()).Value
}

func (w *world) failingTask(kind string) string {
	return w.task(func() (types.AnyType, types.BaseMethodFault) {
		switch kind {
		case "ApplicationQuiesceFault":
			return nil, new(types.ApplicationQuiesceFault)
		case "TaskInProgress":
			return nil, new(types.TaskInProgress)
		case "FileLocked":
			return nil, new(types.FileLocked)
		default:
			return nil, new(types.GenericVmConfigFault)
		}
	})
}

func (w *world) find(task string) *simulator.Task {
	found, _ := w.model.Map().Get(types.ManagedObjectReference{Type: "Task", Value: task}).(*simulator.Task)
	return found
}

// wait tells whether a task has succeeded.
func (w *world) wait(task string) bool {
	found := w.find(task)
	if found == nil {
		return false
	}
	found.Wait()
	return found.Info.State == types.TaskInfoStateSuccess
}

func (w *world) result(task string) (types.AnyType, types.BaseMethodFault) {
	if !w.wait(task) {
		return nil, new(types.GenericVmConfigFault)
	}
	return w.find(task).Info.Result, nil
}

func (w *world) consolidate(ref types.ManagedObjectReference) string {
	return w.task(func() (types.AnyType, types.BaseMethodFault) {
		ctx := w.fresh()
		vm := w.vm(ref)
		ctx.WithLock(vm, func() {
			ctx.Update(vm, []types.PropertyChange{{Name: "runtime.consolidationNeeded", Val: false}})
		})
		return nil, nil
	})
}

var (
	entityPattern = regexp.MustCompile(`<entity[^>]*>([^<]+)</entity>`)
	sourcePattern = regexp.MustCompile(`<sourceId>([^<]+)</sourceId>`)
	devicePattern = regexp.MustCompile(`<deviceKey>(\d+)</deviceKey>`)
	startPattern  = regexp.MustCompile(`<startOffset>(\d+)</startOffset>`)
	whichPattern  = regexp.MustCompile(`<_this[^>]*>([^<]+)</_this>`)
)

func first(pattern *regexp.Regexp, body []byte) string {
	if m := pattern.FindSubmatch(body); m != nil {
		return string(m[1])
	}
	return ""
}

func (w *world) relocation(rw http.ResponseWriter, method string, body []byte) {
	vm, source := first(entityPattern, body), first(sourcePattern, body)
	w.mu.Lock()
	defer w.mu.Unlock()
	if method == "EnableMethods" {
		if w.disabled[vm] == source {
			delete(w.disabled, vm)
		}
	} else if holder, held := w.disabled[vm]; held && holder != source {
		soapFault(rw, "MethodAlreadyDisabledFault", "moving is disabled by "+holder)
		return
	} else {
		w.disabled[vm] = source
	}
	soapAnswer(rw, fmt.Sprintf(`<%sResponse xmlns="urn:internalvim25"/>`, method))
}

// changedAreas answers piece by piece, as real servers do. Areas are set through the control port.
func (w *world) changedAreas(rw http.ResponseWriter, body []byte) {
	vm := w.vm(types.ManagedObjectReference{Type: "VirtualMachine", Value: first(whichPattern, body)})
	key, start := first(devicePattern, body), first(startPattern, body)
	position, _ := strconv.ParseInt(start, 10, 64)
	w.mu.Lock()
	set := w.changed[vm.Name+"/"+key]
	w.mu.Unlock()
	if set == nil {
		soapFault(rw, "FileFault", "changes are not tracked")
		return
	}
	var capacity int64
	for _, disk := range disks(vm.Config.Hardware.Device) {
		if strconv.Itoa(int(disk.Key)) == key {
			capacity = disk.CapacityInBytes
		}
	}
	end := min(position+set.Page, capacity)
	switch set.Broken {
	case "stuck":
		end = position
	case "gap":
		position += 512
	}
	var areas strings.Builder
	for _, area := range set.Areas {
		from, to := max(area[0], position), min(area[0]+area[1], end)
		if from < to {
			fmt.Fprintf(&areas, "<changedArea><start>%d</start><length>%d</length></changedArea>", from, to-from)
		}
	}
	soapAnswer(rw, fmt.Sprintf(`<QueryChangedDiskAreasResponse xmlns="urn:vim25"><returnval><startOffset>%d</startOffset><length>%d</length>%s</returnval></QueryChangedDiskAreasResponse>`, position, end-position, areas.String()))
}

var (
	grantPattern   = regexp.MustCompile(`<privId>([^<]+)</privId><isGranted>true</isGranted>`)
	timePattern    = regexp.MustCompile(`<returnval>([^<]+)</returnval>`)
	quiescePattern = regexp.MustCompile(`<quiesceSpec.*</quiesceSpec>|<quiesce>[^<]*</quiesce>`)
)

// deny takes the denied privileges out of an answer: the simulator grants everything.
func (w *world) deny(answer *httptest.ResponseRecorder) {
	w.mu.Lock()
	defer w.mu.Unlock()
	text := grantPattern.ReplaceAllStringFunc(answer.Body.String(), func(entry string) string {
		if slices.Contains(w.denied, grantPattern.FindStringSubmatch(entry)[1]) {
			return strings.Replace(entry, "true", "false", 1)
		}
		return entry
	})
	rewrite(answer, text)
}

// shift moves the time that an answer tells.
func (w *world) shift(answer *httptest.ResponseRecorder) {
	w.mu.Lock()
	defer w.mu.Unlock()
	rewrite(answer, timePattern.ReplaceAllStringFunc(answer.Body.String(), func(entry string) string {
		told, err := time.Parse(time.RFC3339Nano, timePattern.FindStringSubmatch(entry)[1])
		if err != nil {
			return entry
		}
		return "<returnval>" + told.Add(w.ahead).Format(time.RFC3339Nano) + "</returnval>"
	}))
}

func rewrite(answer *httptest.ResponseRecorder, text string) {
	answer.Body.Reset()
	answer.Body.WriteString(text)
	answer.Header().Del("Content-Length")
}

func (w *world) remember(body []byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.quiesce = string(quiescePattern.Find(body))
}

// describe changes what the server says a datastore is: the simulator knows local folders only.
func (w *world) describe(name, uuid, host, path string) {
	for _, entity := range w.model.Map().All("Datastore") {
		ds := entity.(*simulator.Datastore)
		if ds.Name != name {
			continue
		}
		w.fresh().WithLock(ds, func() {
			info := *ds.Info.GetDatastoreInfo()
			switch {
			case uuid != "":
				ds.Info = &types.VmfsDatastoreInfo{DatastoreInfo: info, Vmfs: &types.HostVmfsVolume{Uuid: uuid}}
			case host != "":
				ds.Info = &types.NasDatastoreInfo{DatastoreInfo: info, Nas: &types.HostNasVolume{RemoteHost: host, RemotePath: path}}
			}
		})
	}
}

// sessions lists the user agents that are logged in.
func (w *world) sessions() []string {
	client, err := vim25.NewClient(w.context, w.model.Service)
	if err != nil {
		return []string{err.Error()}
	}
	var manager mo.SessionManager
	ref := *client.ServiceContent.SessionManager
	if err := property.DefaultCollector(client).RetrieveOne(w.context, ref, []string{"sessionList"}, &manager); err != nil {
		return []string{err.Error()}
	}
	agents := []string{}
	for _, session := range manager.SessionList {
		if session.UserAgent != "" {
			agents = append(agents, session.UserAgent)
		}
	}
	return agents
}

func snapshots(tree []types.VirtualMachineSnapshotTree) []string {
	out := []string{}
	for _, entry := range tree {
		out = append(out, entry.Name)
		out = append(out, snapshots(entry.ChildSnapshotList)...)
	}
	return out
}

// forgetTasks empties the VMs' lists of recent tasks, as time does on a real server.
func (w *world) forgetTasks() {
	w.settle()
	for _, entity := range w.model.Map().All("VirtualMachine") {
		vm := entity.(*simulator.VirtualMachine)
		w.fresh().WithLock(vm, func() { vm.RecentTask = nil })
	}
}

// settle waits until no task runs any more, injected ones excepted.
func (w *world) settle() {
	for range 100 {
		busy := false
		for _, reference := range w.model.Map().AllReference("Task") {
			task := reference.(*simulator.Task)
			if task.Info.Entity != nil && !strings.HasPrefix(task.Info.Entity.Value, "injected") {
				w.fresh().WithLock(task, func() {
					busy = busy || task.Info.State == types.TaskInfoStateRunning || task.Info.State == types.TaskInfoStateQueued
				})
			}
		}
		if !busy {
			return
		}
		time.Sleep(millis(20))
	}
}
