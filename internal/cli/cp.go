package cli

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/hyperfleet/hyperfleet"
)

func newExecID() string { return "x" + strings.ToLower(rand.Text()[:16]) }

func newCpCommand(g *globals) *cobra.Command {
	return &cobra.Command{
		Use: "cp SOURCE DESTINATION", Short: "Copy a file into or out of a machine", Args: cobra.ExactArgs(2),
		Long: "Copy a file into or out of a machine. One of the two is MACHINE:PATH, the other a local\npath or - for standard input or output.",
		Example: `  hyperfleet cp app.tar web:/srv/
  hyperfleet cp web:/var/log/app.log .
  hyperfleet cp web:/etc/hosts -`,
		RunE: func(cmd *cobra.Command, args []string) error { return runCp(cmd.Context(), g, args[0], args[1]) },
	}
}

// remote splits MACHINE:PATH; ok is false for a local path.
func remote(arg string) (machine, file string, ok bool) {
	machine, file, ok = strings.Cut(arg, ":")
	return machine, file, ok && machine != "" && !strings.ContainsAny(machine, "/.")
}

func runCp(ctx context.Context, g *globals, src, dst string) error {
	srcMachine, srcPath, fromGuest := remote(src)
	dstMachine, dstPath, toGuest := remote(dst)
	if fromGuest == toGuest {
		return errors.New("one of source and destination must be MACHINE:PATH, the other a local path")
	}
	c := g.client()
	m, err := findMachine(ctx, c, srcMachine)
	if toGuest {
		m, err = findMachine(ctx, c, dstMachine)
	}
	if err != nil {
		return err
	}
	if toGuest {
		return g.upload(ctx, c, m.ID, src, dstPath)
	}
	return g.download(ctx, c, m.ID, srcPath, dst)
}

func (g *globals) upload(ctx context.Context, c *hyperfleet.Client, machine, src, dst string) error {
	in, mode := g.Stdin, fs.FileMode(0o644)
	if src != "-" {
		f, err := os.Open(src)
		if err != nil {
			return err
		}
		defer f.Close()
		info, err := f.Stat()
		if err != nil {
			return err
		}
		if info.IsDir() {
			return fmt.Errorf("%s is a folder: pipe a tar of it through exec", src)
		}
		in, mode = f, info.Mode().Perm()
		if at, err := c.Stat(ctx, machine, dst); err == nil && at.IsDir {
			dst = path.Join(dst, filepath.Base(src))
		}
	}
	_, err := c.WriteFile(ctx, machine, dst, mode, io.NopCloser(in))
	return err
}

// download writes beside the destination and renames, so that a transfer that
// breaks leaves what was there. What is no regular file (a device, a pipe) is
// written to as it is.
func (g *globals) download(ctx context.Context, c *hyperfleet.Client, machine, src, dst string) (err error) {
	in, info, err := c.ReadFile(ctx, machine, src)
	if err != nil {
		return err
	}
	defer in.Close()
	if dst == "-" {
		_, err = io.Copy(g.Stdout, in)
		return err
	}
	if at, err := os.Stat(dst); err == nil && at.IsDir() {
		dst = filepath.Join(dst, path.Base(src))
	}
	if at, err := os.Stat(dst); err == nil && !at.Mode().IsRegular() {
		return writeInto(dst, in)
	}
	tmp, err := os.CreateTemp(filepath.Dir(dst), ".hyperfleet-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(tmp.Name()))
		}
	}()
	_, err = io.Copy(tmp, in)
	if mode, perr := strconv.ParseUint(info.Mode, 8, 12); perr == nil && err == nil {
		err = tmp.Chmod(fs.FileMode(mode).Perm())
	}
	if err = errors.Join(err, tmp.Close()); err != nil {
		return err
	}
	return os.Rename(tmp.Name(), dst)
}

// writeInto writes to what is there already.
func writeInto(dst string, in io.Reader) error {
	f, err := os.OpenFile(dst, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, in)
	return errors.Join(err, f.Close())
}
