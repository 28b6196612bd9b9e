package cli

import (
	"context"
	"errors"

	"github.com/spf13/cobra"
)

func newDoctorCommand(g *globals) *cobra.Command {
	return &cobra.Command{
		Use: "doctor", Short: "Tell what this host can do for machines", Args: cobra.NoArgs, Annotations: withoutServer,
		Long:    "Tell what this host can and cannot do for machines, and how to mend it. Nothing is changed.\n\nEXIT STATUS\n  0 when machines can run here, 1 when a check has failed; warnings are no reason for 1.",
		Example: "  hyperfleet doctor\n  hyperfleet doctor -o json",
		RunE:    func(cmd *cobra.Command, _ []string) error { return runDoctor(cmd.Context(), g) },
	}
}

func runDoctor(ctx context.Context, g *globals) error {
	results, err := g.Backend.Doctor(ctx)
	if err != nil {
		return withStatus(err, 1)
	}
	type check struct {
		Name   string `json:"name"`
		Level  string `json:"level"`
		Reason string `json:"reason"`
		Fix    string `json:"fix,omitempty"`
	}
	checks, rows, failed := []check{}, [][]string{}, false
	for _, r := range results {
		checks = append(checks, check(r))
		rows = append(rows, []string{r.Name, r.Level, r.Reason, orDash(r.Fix)})
		failed = failed || r.Level == "fail"
	}
	if g.output == "json" {
		err = g.printJSON(checks)
	} else {
		err = g.printTable([]string{"CHECK", "RESULT", "WHY", "FIX"}, rows)
	}
	if err == nil && failed {
		return withStatus(errors.New("machines cannot run here before what failed is mended"), 1)
	}
	return err
}
