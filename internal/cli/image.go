package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/term"

	"github.com/hyperfleet/hyperfleet"
)

// newImageCommand is the group; by its plural alone it lists, as docker does.
func newImageCommand(g *globals) *cobra.Command {
	var o ImageListOptions
	cmd := &cobra.Command{
		Use: "image", Aliases: []string{"images"}, Short: "Work with images", Args: cobra.NoArgs,
		Long:    "Work with images. \"hyperfleet images\" lists them.",
		Example: "  hyperfleet images\n  hyperfleet image pull alpine:3.20\n  hyperfleet image prune",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if cmd.CalledAs() != "images" {
				return cmd.Help()
			}
			return runImageList(cmd.Context(), o, g)
		},
	}
	o.AddFlags(cmd.Flags())
	cmd.AddCommand(
		newImageListCommand(g), newPullCommand(g), newImportCommand(g), newImageRmCommand(g), newImageInspectCommand(g), newImagePruneCommand(g),
	)
	return cmd
}

// ImageListOptions are the options of image ls.
type ImageListOptions struct{ quiet bool }

// AddFlags adds the options' flags.
func (o *ImageListOptions) AddFlags(f *pflag.FlagSet) {
	f.BoolVarP(&o.quiet, "quiet", "q", false, "print digests only")
}

func newImageListCommand(g *globals) *cobra.Command {
	var o ImageListOptions
	cmd := &cobra.Command{
		Use: "ls", Aliases: []string{"list"}, Short: "List images that are ready", Args: cobra.NoArgs,
		Long:    "List images that are ready: one line for each name. The digests that it shows stand for an\nimage wherever one is asked for.",
		Example: "  hyperfleet image ls\n  hyperfleet image rm $(hyperfleet image ls -q)",
		RunE:    func(cmd *cobra.Command, _ []string) error { return runImageList(cmd.Context(), o, g) },
	}
	o.AddFlags(cmd.Flags())
	return cmd
}

func runImageList(ctx context.Context, o ImageListOptions, g *globals) error {
	var list []hyperfleet.Image
	err := g.withEngine(ctx, func(c *hyperfleet.Client) (err error) {
		list, err = c.ListImages(ctx)
		return err
	})
	if err != nil {
		return err
	}
	if o.quiet {
		for _, img := range list {
			fmt.Fprintln(g.Stdout, img.Digest)
		}
		return nil
	}
	if g.output == "json" {
		return g.printJSON(list)
	}
	var rows [][]string
	for _, img := range list {
		used := "-"
		if img.LastUsedAt != nil {
			used = ago(*img.LastUsedAt, time.Now())
		}
		for _, name := range namesOfImage(img) {
			rows = append(rows, []string{name, shortDigest(img.Digest), size(img.SizeBytes), used})
		}
	}
	return g.printTable([]string{"IMAGE", "DIGEST", "SIZE", "USED"}, rows)
}

// namesOfImage are the names under which an image is shown.
func namesOfImage(img hyperfleet.Image) []string {
	switch {
	case len(img.Refs) > 0:
		return img.Refs
	case img.Ref != img.Digest:
		return []string{img.Ref}
	}
	return []string{"<none>"}
}

func shortDigest(digest string) string {
	digest = strings.TrimPrefix(digest, "sha256:")
	return digest[:min(12, len(digest))]
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
		Long: "Make an image ready to boot, and print its digest. On a terminal it shows how far it is.",
		Example: `  hyperfleet pull alpine:3.20
  hyperfleet pull --username ann --password-stdin registry.example.com/app:1 <password`,
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
		Example: `  docker save app:1 | hyperfleet image import - app:1
  hyperfleet image import rootfs.tar.gz mine:1`,
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
		Use: "rm IMAGE...", Aliases: []string{"rmi", "remove"}, Short: "Remove images", Args: cobra.MinimumNArgs(1),
		Long:    "Remove images by name or digest, and print what is gone. An image with several names loses the\none that is given; a digest takes all. One that a machine uses stays.",
		Example: "  hyperfleet image rm alpine:3.20\n  hyperfleet rmi 1e42bbe25081",
		RunE:    func(cmd *cobra.Command, args []string) error { return runImageRm(cmd.Context(), g, args) },
	}
}

// newRmiCommand is image rm as docker calls it.
func newRmiCommand(g *globals) *cobra.Command {
	cmd := newImageRmCommand(g)
	cmd.Use, cmd.Aliases = "rmi IMAGE...", nil
	return cmd
}

func runImageRm(ctx context.Context, g *globals, args []string) error {
	return g.withEngine(ctx, func(c *hyperfleet.Client) error {
		var errs []error
		gone := []string{}
		for _, ref := range args {
			if err := c.DeleteImage(ctx, ref); err != nil {
				errs = append(errs, err)
				continue
			}
			gone = append(gone, ref)
		}
		return errors.Join(append(errs, g.printNames(gone))...)
	})
}

// printNames prints one name on each line, or all as JSON.
func (g *globals) printNames(names []string) error {
	if g.output == "json" {
		return g.printJSON(names)
	}
	for _, name := range names {
		fmt.Fprintln(g.Stdout, name)
	}
	return nil
}

func newImageInspectCommand(g *globals) *cobra.Command {
	return &cobra.Command{
		Use: "inspect IMAGE...", Short: "Print images as JSON", Args: cobra.MinimumNArgs(1),
		Example: "  hyperfleet image inspect alpine:3.20\n  hyperfleet image inspect 1e42bbe25081 | jq '.[].config.env'",
		RunE:    func(cmd *cobra.Command, args []string) error { return runImageInspect(cmd.Context(), g, args) },
	}
}

func runImageInspect(ctx context.Context, g *globals, args []string) error {
	return g.withEngine(ctx, func(c *hyperfleet.Client) error {
		var errs []error
		list := []hyperfleet.Image{}
		for _, ref := range args {
			img, err := c.Image(ctx, ref)
			if err != nil {
				errs = append(errs, err)
				continue
			}
			list = append(list, img)
		}
		return errors.Join(append(errs, g.printJSON(list))...)
	})
}

// PruneOptions are the options of image prune.
type PruneOptions struct {
	unusedFor time.Duration
	force     bool
}

// AddFlags adds the options' flags.
func (o *PruneOptions) AddFlags(f *pflag.FlagSet) {
	f.DurationVar(&o.unusedFor, "unused-for", 0, "only images that nobody has used for so long")
	f.BoolVarP(&o.force, "force", "f", false, "do not ask")
}

func newImagePruneCommand(g *globals) *cobra.Command {
	var o PruneOptions
	cmd := &cobra.Command{
		Use: "prune", Short: "Remove the images that no machine uses", Args: cobra.NoArgs,
		Long:    "Remove the images that no machine uses, and unfinished downloads. A machine uses its image from\nits creation on. On a terminal it asks first: an imported image cannot be pulled again.",
		Example: "  hyperfleet image prune\n  hyperfleet image prune -f --unused-for 168h",
		RunE:    func(cmd *cobra.Command, _ []string) error { return runImagePrune(cmd.Context(), o, g) },
	}
	o.AddFlags(cmd.Flags())
	return cmd
}

func runImagePrune(ctx context.Context, o PruneOptions, g *globals) error {
	if o.unusedFor < 0 {
		return fmt.Errorf("--unused-for %v: want no negative time", o.unusedFor)
	}
	if !o.force && !g.confirm("Remove all images that no machine uses?") {
		return errors.New("nothing was removed")
	}
	return g.withEngine(ctx, func(c *hyperfleet.Client) error {
		res, err := c.PruneImages(ctx, o.unusedFor)
		if err != nil {
			return err
		}
		if g.output == "json" {
			return g.printJSON(res)
		}
		for _, img := range res.Removed {
			for _, name := range namesOfImage(img) {
				fmt.Fprintf(g.Stdout, "%s %s\n", shortDigest(img.Digest), name)
			}
		}
		_, err = fmt.Fprintf(g.Stdout, "%s freed\n", size(res.BytesFreed))
		return err
	})
}

// confirm asks whoever sits at the terminal; without one there is nobody to ask.
func (g *globals) confirm(question string) bool {
	in, ok := g.Stdin.(*os.File)
	if !ok || !term.IsTerminal(int(in.Fd())) {
		return true
	}
	fmt.Fprint(g.Stderr, question+" [y/N] ")
	answer, err := bufio.NewReader(in).ReadString('\n')
	answer = strings.ToLower(strings.TrimSpace(answer))
	return err == nil && (answer == "y" || answer == "yes")
}
