package cli

import (
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// Whoever asks for help gets an example of every command.
func TestEveryCommandHasAnExample(t *testing.T) {
	var visit func(*cobra.Command)
	visit = func(cmd *cobra.Command) {
		for _, sub := range cmd.Commands() {
			visit(sub)
		}
		if !cmd.Runnable() || cmd.Name() == "help" || strings.HasPrefix(cmd.CommandPath(), "hyperfleet completion") {
			return // cobra's own
		}
		if !strings.Contains(cmd.Example, "  hyperfleet ") {
			t.Errorf("%s has no example", cmd.CommandPath())
		}
	}
	visit(newRootCommand(&globals{App: &App{Getenv: func(string) string { return "" }}}))
}
