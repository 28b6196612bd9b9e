package cli

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"

	"github.com/hyperfleet/hyperfleet/internal/buildinfo"
)

// generatedDate is on man pages where SOURCE_DATE_EPOCH does not say another:
// two builds of one tree make the same files.
var generatedDate = time.Date(2026, time.January, 1, 0, 0, 0, 0, time.UTC)

func newGenerateCommand(g *globals) *cobra.Command {
	cmd := &cobra.Command{
		Use: "generate", Short: "Write the files that packages carry", Hidden: true, Annotations: withoutServer,
		Long: "Write man pages or shell completions into a folder, for packages. The same program writes the\nsame files: man pages bear the date of SOURCE_DATE_EPOCH, or a fixed one.",
	}
	cmd.AddCommand(
		&cobra.Command{
			Use: "man DIR", Short: "Write a man page for each command", Args: cobra.ExactArgs(1),
			Example: "  hyperfleet generate man build/man",
			RunE:    func(cmd *cobra.Command, args []string) error { return runGenerateMan(cmd.Root(), g, args[0]) },
		},
		&cobra.Command{
			Use: "completion DIR", Short: "Write completions for bash, zsh, fish and PowerShell", Args: cobra.ExactArgs(1),
			Long:    "Write completions: hyperfleet.bash, _hyperfleet (zsh), hyperfleet.fish and hyperfleet.ps1.",
			Example: "  hyperfleet generate completion build/completion",
			RunE:    func(cmd *cobra.Command, args []string) error { return runGenerateCompletion(cmd.Root(), args[0]) },
		},
	)
	return cmd
}

func runGenerateMan(root *cobra.Command, g *globals, dir string) error {
	date := generatedDate
	if epoch := g.Getenv("SOURCE_DATE_EPOCH"); epoch != "" {
		seconds, err := strconv.ParseInt(epoch, 10, 64)
		if err != nil {
			return fmt.Errorf("SOURCE_DATE_EPOCH=%q: want seconds since 1970", epoch)
		}
		date = time.Unix(seconds, 0).UTC()
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("make folder for man pages: %w", err)
	}
	root.DisableAutoGenTag = true
	manText(root)
	header := &doc.GenManHeader{Section: "1", Date: &date, Source: "Hyperfleet " + buildinfo.Version(), Manual: "Hyperfleet"}
	if err := doc.GenManTree(root, header, dir); err != nil {
		return fmt.Errorf("write man pages: %w", err)
	}
	return nil
}

// manText makes Markdown, which the generator takes, of the help texts of cmd
// and all below: a line in capitals is a heading, an indented line is printed
// as it stands.
func manText(cmd *cobra.Command) {
	if cmd.Long == "" {
		cmd.Long = cmd.Short + "."
	}
	lines := strings.Split(cmd.Long, "\n")
	for i, line := range lines {
		switch indented := strings.HasPrefix(line, "  "); {
		case line != "" && !indented && line == strings.ToUpper(line):
			lines[i] = "# " + line + "\n"
		case indented:
			lines[i] = "    " + line
		}
	}
	cmd.Long = strings.Join(lines, "\n")
	for _, sub := range cmd.Commands() {
		manText(sub)
	}
}

func runGenerateCompletion(root *cobra.Command, dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("make folder for completions: %w", err)
	}
	for name, generate := range map[string]func(*bytes.Buffer) error{
		"hyperfleet.bash": func(b *bytes.Buffer) error { return root.GenBashCompletionV2(b, true) },
		"_hyperfleet":     func(b *bytes.Buffer) error { return root.GenZshCompletion(b) },
		"hyperfleet.fish": func(b *bytes.Buffer) error { return root.GenFishCompletion(b, true) },
		"hyperfleet.ps1":  func(b *bytes.Buffer) error { return root.GenPowerShellCompletionWithDesc(b) },
	} {
		var b bytes.Buffer
		if err := generate(&b); err != nil {
			return fmt.Errorf("generate %s: %w", name, err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), b.Bytes(), 0o644); err != nil {
			return fmt.Errorf("write completion: %w", err)
		}
	}
	return nil
}
