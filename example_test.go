package hyperfleet_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"strings"

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
