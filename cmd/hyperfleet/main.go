// Command hyperfleet is the daemon (hyperfleet serve) and the command line of
// Hyperfleet. It only joins package cli to package daemon.
package main

import (
	"context"
	"os"

	"github.com/hyperfleet/hyperfleet/internal/cli"
	"github.com/hyperfleet/hyperfleet/internal/daemon"
)

func main() {
	app := cli.NewApp(cli.Backend{
		Serve: daemon.Run, Configuration: daemon.Configuration, Embed: daemon.Embed, Setup: daemon.Setup,
		ImportReference: daemon.ImportReference, Doctor: daemon.Doctor,
	})
	os.Exit(app.Main(context.Background(), os.Args[1:]))
}
