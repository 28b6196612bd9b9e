package hyperfleet_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"strings"
	"time"

	"github.com/hyperfleet/hyperfleet"
)

// A machine from an image, one command in it, and its end.
func Example() {
	ctx := context.Background()
	c := &hyperfleet.Client{} // this host's daemon
	m, err := c.CreateMachine(ctx, hyperfleet.CreateMachineRequest{
		Name: "hello", VCPUCount: 1, MemSizeMiB: 256, Image: "alpine:3.20",
	})
	if err != nil {
		log.Fatal(err)
	}
	defer c.DeleteMachine(ctx, m.ID)
	if _, err := c.StartMachine(ctx, m.ID); err != nil {
		log.Fatal(err)
	}
	res, err := c.Exec(ctx, m.ID, hyperfleet.ExecRequest{Command: []string{"uname", "-r"}})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Print(res.Stdout)
}

// A command on this process's own streams.
func ExampleClient_ExecStream() {
	c := &hyperfleet.Client{Host: "http://10.0.0.7:3000", APIKey: "hf_..."}
	res, err := c.ExecStream(context.Background(), "4fzk1x7q0c2m", hyperfleet.ExecRequest{Command: []string{"sort"}},
		hyperfleet.ExecIO{Stdin: strings.NewReader("b\na\n"), Stdout: os.Stdout, Stderr: os.Stderr})
	if err != nil {
		log.Fatal(err)
	}
	os.Exit(res.ExitCode)
}

// Errors of the server match sentinels.
func ExampleError() {
	c := &hyperfleet.Client{}
	_, err := c.Machine(context.Background(), "nosuch")
	if errors.Is(err, hyperfleet.ErrNotFound) {
		fmt.Println("create it first")
	}
}

// An image with its progress.
func ExampleClient_PullImage() {
	c := &hyperfleet.Client{}
	img, err := c.PullImage(context.Background(), hyperfleet.PullRequest{Image: "alpine:3.20"}, func(p hyperfleet.PullProgress) {
		fmt.Printf("%s %d of %d bytes\n", p.Phase, p.Current, p.Total)
	})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(img.Digest)
}

// All machines, page by page.
func ExampleClient_Machines() {
	c := &hyperfleet.Client{}
	for m, err := range c.Machines(context.Background(), hyperfleet.ListOptions{Status: hyperfleet.StatusFailed}) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(m.Name, *m.ErrorMessage)
	}
}

// The last lines of a machine's log, and what comes.
func ExampleClient_MachineLogs() {
	c := &hyperfleet.Client{}
	lines, err := c.MachineLogs(context.Background(), "4fzk1x7q0c2m", hyperfleet.LogOptions{Tail: 20, Follow: true})
	if err != nil {
		log.Fatal(err)
	}
	defer lines.Close()
	if _, err := io.Copy(os.Stdout, lines); err != nil {
		log.Fatal(err)
	}
}

// Why a machine failed, as the host saw it.
func ExampleClient_MachineLogEntries() {
	c := &hyperfleet.Client{}
	for e, err := range c.MachineLogEntries(context.Background(), "4fzk1x7q0c2m", hyperfleet.LogOptions{Source: hyperfleet.LogAgent}) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(e.Time, e.Source, e.Line)
	}
}

// A machine that stands still for a while.
func ExampleClient_PauseMachine() {
	ctx := context.Background()
	c := &hyperfleet.Client{}
	if _, err := c.PauseMachine(ctx, "4fzk1x7q0c2m"); err != nil {
		log.Fatal(err)
	}
	if _, err := c.ResumeMachine(ctx, "4fzk1x7q0c2m"); err != nil {
		log.Fatal(err)
	}
}

// Disk space of images that nothing has used for a week.
func ExampleClient_PruneImages() {
	c := &hyperfleet.Client{}
	res, err := c.PruneImages(context.Background(), 7*24*time.Hour)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(len(res.Removed), "images,", res.BytesFreed, "bytes")
}

// A create and a start that may be made again after whatever broke, also by the
// next run of this program: their keys name the job, so one machine is made.
func ExampleIdempotencyKey() {
	ctx, job := context.Background(), "job-4711"
	c := &hyperfleet.Client{}
	m, err := c.CreateMachine(ctx, hyperfleet.CreateMachineRequest{
		Name: job, VCPUCount: 1, MemSizeMiB: 256, Image: "alpine:3.20",
	}, hyperfleet.IdempotencyKey(job+"/create"))
	if err != nil {
		log.Fatal(err)
	}
	if _, err := c.StartMachine(ctx, m.ID, hyperfleet.IdempotencyKey(job+"/start")); err != nil {
		log.Fatal(err)
	}
}

// A daemon with a certificate of its own making, whose file was copied here.
func ExampleClient_tls() {
	pem, err := os.ReadFile("ca.crt")
	if err != nil {
		log.Fatal(err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		log.Fatal("ca.crt holds no certificate")
	}
	c := &hyperfleet.Client{Host: "https://build.example.com:3000", APIKey: "hf_...", TLS: &tls.Config{RootCAs: pool}}
	if _, err := c.Version(context.Background()); err != nil {
		log.Fatal(err)
	}
}
