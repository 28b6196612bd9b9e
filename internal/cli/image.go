package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/hyperfleet/hyperfleet"
)

func newImageCommand(g *globals) *cobra.Command {
	cmd := &cobra.Command{Use: "image", Aliases: []string{"images"}, Short: "Work with images"}
	cmd.AddCommand(newImageListCommand(g), newPullCommand(g), newImportCommand(g), newImageRmCommand(g), newImageInspectCommand(g))
	return cmd
}

func newImageListCommand(g *globals) *cobra.Command {
	return &cobra.Command{
		Use: "ls", Aliases: []string{"list"}, Short: "List images that are ready", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return runImageList(cmd.Context(), g) },
	}
}

func runImageList(ctx context.Context, g *globals) error {
	var list []hyperfleet.Image
	err := g.withEngine(ctx, func(c *hyperfleet.Client) (err error) {
		list, err = c.ListImages(ctx)
		return err
	})
	if err != nil {
		return err
	}
	if g.output == "json" {
		return g.printJSON(list)
	}
	rows := make([][]string, len(list))
	for i, img := range list {
		digest := strings.TrimPrefix(img.Digest, "sha256:")
		rows[i] = []string{img.Ref, digest[:min(12, len(digest))], size(img.SizeBytes)}
	}
	return g.printTable([]string{"IMAGE", "DIGEST", "SIZE"}, rows)
}

// PullOptions are the options of image pull.
type PullOptions struct {
	username      string
	passwordStdin bool
}

// AddFlags adds the options' flags.
func (o *PullOptions) AddFlags(f *pflag.FlagSet) {
	f.StringVar(&o.username, "username", "", "user for the registry, with $HYPERFLEET_REGISTRY_PASSWORD")
	f.BoolVar(&o.passwordStdin, "password-stdin", false, "read the password from standard input")
}

func newPullCommand(g *globals) *cobra.Command {
	var o PullOptions
	cmd := &cobra.Command{
		Use: "pull IMAGE", Short: "Make an image ready to boot", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return runPull(cmd.Context(), o, g, args[0]) },
	}
	o.AddFlags(cmd.Flags())
	return cmd
}

func runPull(ctx context.Context, o PullOptions, g *globals, ref string) error {
	auth := g.registryAuth(o.username)
	if o.passwordStdin {
		if auth == nil {
			return errors.New("--password-stdin needs --username")
		}
		raw, err := io.ReadAll(io.LimitReader(g.Stdin, 64<<10))
		if err != nil {
			return fmt.Errorf("read the password: %w", err)
		}
		auth.Password = strings.TrimRight(string(raw), "\r\n")
	}
	return g.withEngine(ctx, func(c *hyperfleet.Client) error {
		img, err := g.pull(ctx, c, ref, auth)
		if err != nil {
			return err
		}
		return g.print(img, img.Digest)
	})
}

// pull pulls, with a progress bar when standard error is a terminal.
func (g *globals) pull(ctx context.Context, c *hyperfleet.Client, ref string, auth *hyperfleet.RegistryAuth) (hyperfleet.Image, error) {
	bars := newPullBars(g.Stderr)
	defer bars.close()
	return c.PullImage(ctx, hyperfleet.PullRequest{Image: ref, RegistryAuth: auth}, bars.update)
}

func newImportCommand(g *globals) *cobra.Command {
	return &cobra.Command{
		Use: "import FILE NAME", Short: "Make an image of an archive", Args: cobra.ExactArgs(2),
		Long: "Make an image of an archive (docker save, OCI layout or root filesystem; tar, also compressed);\nFILE may be - for standard input.",
		RunE: func(cmd *cobra.Command, args []string) error { return runImport(cmd.Context(), g, args[0], args[1]) },
	}
}

func runImport(ctx context.Context, g *globals, file, name string) error {
	in := g.Stdin
	if file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return err
		}
		defer f.Close()
		in = f
	}
	return g.withEngine(ctx, func(c *hyperfleet.Client) error {
		img, err := c.ImportImage(ctx, name, io.NopCloser(in))
		if err != nil {
			return err
		}
		return g.print(img, img.Digest)
	})
}

func newImageRmCommand(g *globals) *cobra.Command {
	return &cobra.Command{
		Use: "rm IMAGE...", Short: "Remove images", Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return runImageRm(cmd.Context(), g, args) },
	}
}

func runImageRm(ctx context.Context, g *globals, args []string) error {
	return g.withEngine(ctx, func(c *hyperfleet.Client) error {
		var errs []error
		for _, ref := range args {
			errs = append(errs, c.DeleteImage(ctx, ref))
		}
		return errors.Join(errs...)
	})
}

func newImageInspectCommand(g *globals) *cobra.Command {
	return &cobra.Command{
		Use: "inspect IMAGE...", Short: "Print images as JSON", Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return runImageInspect(cmd.Context(), g, args) },
	}
}

func runImageInspect(ctx context.Context, g *globals, args []string) error {
	return g.withEngine(ctx, func(c *hyperfleet.Client) error {
		list := make([]hyperfleet.Image, len(args))
		for i, ref := range args {
			img, err := c.Image(ctx, ref)
			if err != nil {
				return err
			}
			list[i] = img
		}
		return g.printJSON(list)
	})
}
