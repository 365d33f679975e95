// Command vcsim serves govmomi's vSphere simulator to this project's tests, behind a TLS front that adds
// what the simulator lacks. README.md says which behaviour is whose.
//
// It prints one line of JSON when it is ready and ends when its standard input is closed, so that it never
// outlives the test that started it.
package main

import (
	"crypto/rand"
	"encoding/json"
	"flag"
	"io"
	"log"
	"net"
	"net/http"
	"net/url"
	"os"

	"github.com/vmware/govmomi/simulator"
)

func main() {
	esx := flag.Bool("esx", false, "a host by itself instead of a vCenter")
	vms := flag.Int("vms", 2, "number of VMs")
	user := flag.String("user", "backup@vsphere.local", "the one user name")
	password := flag.String("password", "s3cret-Pa55", "the one password; 'random' for one that is in nobody's arguments")
	name := flag.String("cert-name", "127.0.0.1", "address or name the certificate is for")
	flag.Parse()
	log.SetOutput(io.Discard)
	if *password == "random" {
		*password = rand.Text()
	}

	model := simulator.VPX()
	if *esx {
		model = simulator.ESX()
	} else {
		model.ClusterHost, model.Host = 1, 1
		model.Cluster = 0
	}
	model.Machine, model.Datastore = *vms, 1
	if err := model.Create(); err != nil {
		fatal(err)
	}
	defer model.Remove()
	model.Service.Listen = &url.URL{Host: "127.0.0.1:0", User: url.UserPassword(*user, *password)}
	back := model.Service.NewServer()
	defer back.Close()

	front := newFront(model, &url.URL{Scheme: "http", Host: back.URL.Host})
	certificate, authority := newCertificate(*name)
	server := front.listen(certificate)
	defer server.Close()
	control, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fatal(err)
	}
	go func() { _ = http.Serve(control, front.control()) }()

	ready := map[string]any{
		"host":        front.address,
		"control":     control.Addr().String(),
		"authority":   authority,
		"fingerprint": fingerprint(certificate),
		"user":        *user,
		"password":    *password,
	}
	if err := json.NewEncoder(os.Stdout).Encode(ready); err != nil {
		fatal(err)
	}
	_, _ = io.Copy(io.Discard, os.Stdin)
}

func fatal(err error) {
	_, _ = os.Stderr.WriteString(err.Error() + "\n")
	os.Exit(1)
}
