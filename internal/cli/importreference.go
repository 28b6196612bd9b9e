package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// ImportReferenceOptions are the options of import-reference.
type ImportReferenceOptions struct {
	skipInvalid bool
}

// AddFlags adds the options' flags.
func (o *ImportReferenceOptions) AddFlags(f *pflag.FlagSet) {
	f.BoolVar(&o.skipInvalid, "skip-invalid", false, "leave out rows that cannot be imported, instead of importing nothing")
}

const importReferenceHelp = `Take over the machines and API keys of the reference implementation's database (hyperfleet.db),
in one transaction. Keys go on opening what they opened; those that are revoked or expired stay
so. Machines keep their ids, names, images, sizes and exposed ports, and are stopped; their first
start makes their disk. For each row it is told what is not carried over. What the reference took
from its environment (kernel, kernel arguments, root filesystem) is this daemon's to configure,
and the contents of disks are not imported: all machines of an image shared one.

The file is only read. No daemon may run meanwhile: its state folder is locked. A second run
changes nothing.

EXIT STATUS
  0 when everything is imported or was there, 1 when nothing was, because of rows that are
  invalid, 125 for other errors. With --skip-invalid, invalid rows are no reason for 1.`

func newImportReferenceCommand(g *globals) *cobra.Command {
	var o ImportReferenceOptions
	cmd := &cobra.Command{
		Use: "import-reference FILE", Short: "Import the reference implementation's database", Args: cobra.ExactArgs(1),
		Long: importReferenceHelp, Annotations: withoutServer,
		Example: "  hyperfleet import-reference ./hyperfleet.db\n  hyperfleet import-reference --skip-invalid -o json ./hyperfleet.db",
		RunE:    func(cmd *cobra.Command, args []string) error { return runImportReference(cmd.Context(), o, g, args[0]) },
	}
	o.AddFlags(cmd.Flags())
	return cmd
}

func runImportReference(ctx context.Context, o ImportReferenceOptions, g *globals, file string) error {
	report, err := g.Backend.ImportReference(ctx, ImportRequest{File: file, SkipInvalid: o.skipInvalid})
	if err != nil {
		return err
	}
	if err := g.printImport(report); err != nil {
		return err
	}
	if !report.Done {
		return withStatus(errors.New("nothing is imported, because of the invalid rows: --skip-invalid leaves them out"), 1)
	}
	return nil
}

func (g *globals) printImport(report ImportReport) error {
	if g.output == "json" {
		type row struct {
			Kind    string   `json:"kind"`
			ID      string   `json:"id"`
			Name    string   `json:"name"`
			Outcome string   `json:"outcome"`
			Notes   []string `json:"notes"`
		}
		out := struct {
			Done bool  `json:"done"`
			Rows []row `json:"rows"`
		}{report.Done, []row{}}
		for _, r := range report.Rows {
			r.Notes = append([]string{}, r.Notes...)
			out.Rows = append(out.Rows, row(r))
		}
		return g.printJSON(out)
	}
	counts := map[string]int{}
	rows := make([][]string, len(report.Rows))
	for i, r := range report.Rows {
		counts[r.Kind+" "+r.Outcome]++
		rows[i] = []string{r.Kind, r.ID, orDash(r.Name), r.Outcome, strings.Join(r.Notes, "; ")}
	}
	if err := g.printTable([]string{"KIND", "ID", "NAME", "OUTCOME", "NOTES"}, rows); err != nil {
		return err
	}
	_, err := fmt.Fprintf(g.Stdout, "imported %d machines and %d keys\n", counts["machine imported"], counts["key imported"])
	return err
}
