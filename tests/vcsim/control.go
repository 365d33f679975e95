package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/types"
)

// setup describes changes to a VM. Empty fields change nothing.
type setup struct {
	Name     string            `json:"name"`
	Rename   string            `json:"rename"`
	Address  string            `json:"address"`
	HostName string            `json:"host_name"`
	Guest    string            `json:"guest"` // guest family; also says that Tools run
	Files    map[string]string `json:"files"` // name in the VM's folder: file to link or copy there
	Disks    []disk            `json:"disks"` // replaces the VM's disks
	Template *bool             `json:"template"`
	FT       *bool             `json:"ft"`
	Encrypt  *bool             `json:"encrypted"`
	Leftover *bool             `json:"consolidation_needed"`
}

type disk struct {
	File     string `json:"file"` // name in the VM's folder
	Capacity int64  `json:"capacity"`
	Kind     string `json:"kind"` // "", "prdm", "vrdm", "independent"
}

// control is the tests' side of the front.
func (f *front) control() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /state", func(w http.ResponseWriter, _ *http.Request) { reply(w, f.state()) })
	mux.HandleFunc("POST /vm", func(w http.ResponseWriter, r *http.Request) {
		var s setup
		if decode(w, r, &s) {
			if err := f.world.apply(s); err != nil {
				http.Error(w, err.Error(), http.StatusBadRequest)
			}
		}
	})
	mux.HandleFunc("POST /fault", func(w http.ResponseWriter, r *http.Request) {
		var next rule
		if decode(w, r, &next) {
			f.mu.Lock()
			f.rules = append(f.rules, &next)
			f.mu.Unlock()
		}
	})
	mux.HandleFunc("POST /reset", func(http.ResponseWriter, *http.Request) {
		f.mu.Lock()
		f.rules, f.seen, f.peak = nil, nil, map[string]int{}
		f.mu.Unlock()
		f.world.forgetTasks()
	})
	mux.HandleFunc("POST /changed", func(w http.ResponseWriter, r *http.Request) {
		var c struct {
			VM  string `json:"vm"`
			Key int    `json:"key"`
			changes
		}
		if decode(w, r, &c) {
			f.world.mu.Lock()
			f.world.changed[c.VM+"/"+strconv.Itoa(c.Key)] = &c.changes
			f.world.mu.Unlock()
		}
	})
	mux.HandleFunc("POST /deny", func(w http.ResponseWriter, r *http.Request) {
		var denied []string
		if decode(w, r, &denied) {
			f.world.mu.Lock()
			f.world.denied = denied
			f.world.mu.Unlock()
		}
	})
	mux.HandleFunc("POST /clock", func(w http.ResponseWriter, r *http.Request) {
		var seconds int
		if decode(w, r, &seconds) {
			f.world.mu.Lock()
			f.world.ahead = time.Duration(seconds) * time.Second
			f.world.mu.Unlock()
		}
	})
	mux.HandleFunc("POST /idle", func(w http.ResponseWriter, r *http.Request) {
		var limit int
		if decode(w, r, &limit) {
			f.mu.Lock()
			f.idle = millis(limit)
			f.mu.Unlock()
		}
	})
	mux.HandleFunc("POST /expire", func(http.ResponseWriter, *http.Request) { f.endAll() })
	mux.HandleFunc("POST /datastore", func(w http.ResponseWriter, r *http.Request) {
		var d struct {
			Name string `json:"name"`
			UUID string `json:"vmfs_uuid"`
			Host string `json:"nas_host"`
			Path string `json:"nas_path"`
		}
		if decode(w, r, &d) {
			f.world.describe(d.Name, d.UUID, d.Host, d.Path)
		}
	})
	mux.HandleFunc("POST /free", func(w http.ResponseWriter, r *http.Request) {
		var c struct {
			Datastore string `json:"datastore"`
			Free      int64  `json:"free"`
		}
		if decode(w, r, &c) {
			for _, entity := range f.world.model.Map().All("Datastore") {
				if ds := entity.(*simulator.Datastore); ds.Name == c.Datastore {
					f.world.fresh().WithLock(ds, func() { ds.Summary.FreeSpace, ds.Info.GetDatastoreInfo().FreeSpace = c.Free, c.Free })
				}
			}
		}
	})
	return mux
}

func reply(w http.ResponseWriter, value any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(value)
}

func decode(w http.ResponseWriter, r *http.Request, into any) bool {
	if err := json.NewDecoder(r.Body).Decode(into); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return false
	}
	return true
}

// state is everything a test may want to look at.
func (f *front) state() map[string]any {
	f.world.settle()
	vms := map[string]any{}
	for _, entity := range f.world.model.Map().All("VirtualMachine") {
		vm := entity.(*simulator.VirtualMachine)
		f.world.fresh().WithLock(vm, func() {
			names, files := []string{}, []string{}
			if vm.Snapshot != nil {
				names = snapshots(vm.Snapshot.RootSnapshotList)
			}
			for _, disk := range disks(vm.Config.Hardware.Device) {
				if b, ok := disk.Backing.(*backing); ok {
					files = append(files, b.FileName)
				}
			}
			vms[vm.Name] = map[string]any{
				"moref": vm.Self.Value, "uuid": vm.Config.Uuid, "instance_uuid": vm.Config.InstanceUuid,
				"vmx": vm.Config.Files.VmPathName, "snapshots": names, "disks": files,
				"consolidation_needed": vm.Runtime.ConsolidationNeeded,
			}
		})
	}
	datastores := map[string]string{}
	for _, entity := range f.world.model.Map().All("Datastore") {
		ds := entity.(*simulator.Datastore)
		datastores[ds.Name] = ds.Summary.Url
	}
	sessions := f.world.sessions()
	f.mu.Lock()
	defer f.mu.Unlock()
	f.world.mu.Lock()
	defer f.world.mu.Unlock()
	return map[string]any{
		"vms": vms, "datastores": datastores, "sessions": sessions,
		"requests": append([]string{}, f.seen...), "disabled": f.world.disabled,
		"peak": maps.Clone(f.peak), "quiesce": f.world.quiesce,
	}
}

func (w *world) apply(s setup) error {
	vm := w.named(s.Name)
	if vm == nil {
		return fmt.Errorf("no VM %q", s.Name)
	}
	datastore, vmx := split(vm.Config.Files.VmPathName)
	folder := filepath.Dir(vmx)
	for name, source := range s.Files {
		target := filepath.Join(w.folder(datastore), folder, name)
		_ = os.Remove(target)
		if err := os.Link(source, target); err != nil {
			data, err := os.ReadFile(source)
			if err != nil {
				return err
			}
			if err := os.WriteFile(target, data, 0o600); err != nil {
				return err
			}
		}
	}
	ctx := w.fresh()
	ctx.WithLock(vm, func() {
		if s.Disks != nil {
			w.setDisks(vm, s.Disks, "["+datastore+"] "+folder+"/")
		}
		if s.Address != "" {
			vm.Guest.IpAddress, vm.Summary.Guest.IpAddress = s.Address, s.Address
		}
		if s.HostName != "" {
			vm.Guest.HostName, vm.Summary.Guest.HostName = s.HostName, s.HostName
		}
		if s.Guest != "" {
			vm.Guest.GuestFamily = s.Guest
			vm.Guest.ToolsRunningStatus = string(types.VirtualMachineToolsRunningStatusGuestToolsRunning)
		}
		if s.Template != nil {
			vm.Config.Template = *s.Template
		}
		if s.FT != nil {
			vm.Config.FtInfo = &types.FaultToleranceConfigInfo{Role: 1}
		}
		if s.Encrypt != nil {
			vm.Config.KeyId = &types.CryptoKeyId{KeyId: "key"}
		}
		if s.Leftover != nil {
			vm.Runtime.ConsolidationNeeded = *s.Leftover
		}
		if s.Rename != "" {
			vm.Name, vm.Config.Name, vm.Summary.Config.Name = s.Rename, s.Rename, s.Rename
		}
	})
	return nil
}

// setDisks replaces the VM's disks by files that are in its folder.
func (w *world) setDisks(vm *simulator.VirtualMachine, wanted []disk, prefix string) {
	var devices []types.BaseVirtualDevice
	var controller int32
	for _, device := range vm.Config.Hardware.Device {
		if _, ok := device.(*types.VirtualDisk); ok {
			continue
		}
		if scsi, ok := device.(types.BaseVirtualSCSIController); ok {
			controller = scsi.GetVirtualSCSIController().Key
		}
		devices = append(devices, device)
	}
	datastore := vm.Datastore[0]
	for i, d := range wanted {
		unit := int32(i)
		info := types.VirtualDeviceFileBackingInfo{FileName: prefix + d.File, Datastore: &datastore}
		var b types.BaseVirtualDeviceBackingInfo
		switch d.Kind {
		case "prdm", "vrdm":
			mode := map[string]string{"prdm": "physicalMode", "vrdm": "virtualMode"}[d.Kind]
			b = &types.VirtualDiskRawDiskMappingVer1BackingInfo{VirtualDeviceFileBackingInfo: info, CompatibilityMode: mode}
		case "independent":
			b = &backing{VirtualDeviceFileBackingInfo: info, DiskMode: "independent_persistent"}
		default:
			b = &backing{VirtualDeviceFileBackingInfo: info, DiskMode: "persistent", Uuid: fmt.Sprintf("6000C29%d", i), ChangeId: "52 de ad be ef 00 00 01-00 00 00 00 00 00 00 01/0"}
		}
		device := &types.VirtualDisk{CapacityInKB: d.Capacity / 1024, CapacityInBytes: d.Capacity}
		device.Key, device.ControllerKey, device.UnitNumber, device.Backing = 2000+unit, controller, &unit, b
		device.DeviceInfo = &types.Description{Label: fmt.Sprintf("Hard disk %d", i+1)}
		devices = append(devices, device)
	}
	vm.Config.Hardware.Device = devices
}
