// Command hyperfleet-init is process 1 and the agent of each guest. It takes
// no arguments; the kernel's command line says how it reaches the host. On a
// host it does nothing but tell its --version.
package main

import (
	"fmt"
	"os"

	"github.com/hyperfleet/hyperfleet/internal/buildinfo"
	"github.com/hyperfleet/hyperfleet/internal/initd"
)

func main() {
	if os.Getpid() != 1 && len(os.Args) == 2 && os.Args[1] == "--version" {
		fmt.Println("hyperfleet-init", buildinfo.Version())
		return
	}
	if err := initd.Main(buildinfo.Version()); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
