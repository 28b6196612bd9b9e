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
)

const maxAPIKey = 4096 // bytes

const contextHelp = `A context is a server with the key for it, under a name. They are kept in
$XDG_CONFIG_HOME/hyperfleet/contexts.json, by default below ~/.config, for the user's eyes only.

Which server a command talks to is said by the first of these that is there:

  --host, or --context
  HYPERFLEET_HOST
  HYPERFLEET_CONTEXT
  HYPERFLEET_RUN_DIR            the socket of a daemon with that variable
  the current context           "hyperfleet context use" sets it
  the context "default"         the daemon of this host, unix:///run/hyperfleet/api.sock

A context's key goes to its own host alone. HYPERFLEET_API_KEY goes to every other, and to a
context that has none.`

func newContextCommand(g *globals) *cobra.Command {
	cmd := &cobra.Command{
		Use: "context", Aliases: []string{"contexts"}, Short: "Work with several servers", Long: contextHelp,
		Annotations: withoutServer,
	}
	cmd.AddCommand(
		newContextListCommand(g), newContextShowCommand(g), newContextCreateCommand(g), newContextUseCommand(g), newContextRmCommand(g),
	)
	return cmd
}

func newContextListCommand(g *globals) *cobra.Command {
	return &cobra.Command{
		Use: "ls", Aliases: []string{"list"}, Short: "List contexts", Args: cobra.NoArgs,
		Example: "  hyperfleet context ls",
		RunE:    func(*cobra.Command, []string) error { return runContextList(g) },
	}
}

// contextView is a context as it is shown: without its key.
type contextView struct {
	Name    string `json:"name"`
	Current bool   `json:"current"`
	Host    string `json:"host"`
	APIKey  string `json:"api_key"` // "set" or ""
	TLSCA   bool   `json:"tls_ca"`
}

func (f contextFile) view(name string) (contextView, error) {
	c, err := f.find(name)
	v := contextView{Name: name, Current: name == f.current(), Host: c.address(), TLSCA: c.TLSCA != ""}
	if c.APIKey != "" {
		v.APIKey = "set"
	}
	return v, err
}

func runContextList(g *globals) error {
	file, err := g.readContexts()
	if err != nil {
		return err
	}
	views, rows := []contextView{}, [][]string{}
	for _, name := range file.names() {
		v, err := file.view(name)
		if err != nil {
			return err
		}
		mark := ""
		if v.Current {
			mark = "*"
		}
		views, rows = append(views, v), append(rows, []string{mark, v.Name, v.Host, orDash(v.APIKey)})
	}
	if g.output == "json" {
		return g.printJSON(views)
	}
	return g.printTable([]string{"", "NAME", "HOST", "KEY"}, rows)
}

func newContextShowCommand(g *globals) *cobra.Command {
	return &cobra.Command{
		Use: "show [CONTEXT]", Short: "Print a context, or which server commands talk to", Args: cobra.MaximumNArgs(1),
		Long:    "Print a context without its key. Without a name: which server commands talk to now, and what\nsays so.",
		Example: "  hyperfleet context show\n  hyperfleet context show build-host -o json",
		RunE:    func(_ *cobra.Command, args []string) error { return runContextShow(g, args) },
	}
}

func runContextShow(g *globals, args []string) error {
	if len(args) == 0 {
		return runContextShowSelected(g)
	}
	file, err := g.readContexts()
	if err != nil {
		return err
	}
	v, err := file.view(args[0])
	if err != nil {
		return err
	}
	return g.print(v, fmt.Sprintf("name: %s\nhost: %s\nkey:  %s", v.Name, v.Host, orDash(v.APIKey)))
}

func runContextShowSelected(g *globals) error {
	if err := g.selectServer(); err != nil {
		return err
	}
	v := struct {
		Name    string `json:"name"` // "" for a server without a context
		Host    string `json:"host"`
		APIKey  string `json:"api_key"`
		Because string `json:"because"`
	}{g.server.context, serverContext{Host: g.server.host}.address(), "", g.server.because}
	if g.server.apiKey != "" {
		v.APIKey = "set"
	}
	return g.print(v, fmt.Sprintf("name: %s\nhost: %s\nkey:  %s\nfrom: %s", orDash(v.Name), v.Host, orDash(v.APIKey), v.Because))
}

// ContextOptions are the options of context create.
type ContextOptions struct {
	keyFile  string
	keyStdin bool
	use      bool
	replace  bool
}

// AddFlags adds the options' flags.
func (o *ContextOptions) AddFlags(f *pflag.FlagSet) {
	f.StringVar(&o.keyFile, "api-key-file", "", "read the server's key from this file")
	f.BoolVar(&o.keyStdin, "api-key-stdin", false, "read the server's key from standard input")
	f.BoolVar(&o.use, "use", false, "make it the current context")
	f.BoolVar(&o.replace, "replace", false, "replace a context of that name")
}

func newContextCreateCommand(g *globals) *cobra.Command {
	var o ContextOptions
	cmd := &cobra.Command{
		Use: "create NAME", Short: "Keep a server under a name", Args: cobra.ExactArgs(1),
		Long: "Keep the server of --host under a name, with its key and the certificate of --tls-ca. The key\nis read from a file or standard input, so that it is in no list of processes.",
		Example: "  hyperfleet context create build-host --host https://build.example.com:3000 --api-key-stdin <key\n" +
			"  hyperfleet context create lab --host unix:///srv/lab/run/api.sock --use",
		RunE: func(_ *cobra.Command, args []string) error { return runContextCreate(o, g, args[0]) },
	}
	o.AddFlags(cmd.Flags())
	return cmd
}

func runContextCreate(o ContextOptions, g *globals, name string) error {
	if !contextNames.MatchString(name) || name == defaultContext {
		return fmt.Errorf("context %q: want a name of at most 63 letters, digits and ._- that is not %q", name, defaultContext)
	}
	if g.host == "" {
		return errors.New("where is the server? give --host")
	}
	if err := checkHost(g.host); err != nil {
		return err
	}
	c := serverContext{Host: g.host}
	var err error
	if c.APIKey, err = o.apiKey(g); err != nil {
		return err
	}
	if g.tlsCA != "" {
		raw, err := os.ReadFile(g.tlsCA)
		if err != nil {
			return fmt.Errorf("read the daemon's certificate: %w", err)
		}
		if _, err := trusting(raw, g.tlsCA); err != nil {
			return err
		}
		c.TLSCA = string(raw)
	}
	if c.APIKey != "" && inTheClear(c.Host) {
		g.warn([]string{"the key can be read on the way to " + c.Host + ": use https"})
	}
	err = g.updateContexts(func(f *contextFile) error {
		if _, exists := f.Contexts[name]; exists && !o.replace {
			return fmt.Errorf("context %q exists: --replace replaces it", name)
		}
		f.Contexts[name] = c
		if o.use {
			f.Current = name
		}
		return nil
	})
	if err != nil {
		return err
	}
	return g.print(map[string]string{"name": name}, name)
}

// apiKey reads the key of a new context; "" is none.
func (o ContextOptions) apiKey(g *globals) (string, error) {
	in := g.Stdin
	switch {
	case o.keyFile != "" && o.keyStdin:
		return "", errors.New("--api-key-file and --api-key-stdin: give one")
	case o.keyFile != "":
		f, err := os.Open(o.keyFile)
		if err != nil {
			return "", fmt.Errorf("read the key: %w", err)
		}
		defer f.Close()
		in = f
	case !o.keyStdin:
		return "", nil
	}
	raw, err := io.ReadAll(io.LimitReader(in, maxAPIKey+1))
	if err != nil {
		return "", fmt.Errorf("read the key: %w", err)
	}
	key := strings.TrimSpace(string(raw))
	if key == "" || len(raw) > maxAPIKey || strings.ContainsFunc(key, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return "", fmt.Errorf("read the key: want one word of at most %d bytes", maxAPIKey)
	}
	return key, nil
}

func newContextUseCommand(g *globals) *cobra.Command {
	return &cobra.Command{
		Use: "use CONTEXT", Short: "Talk to this server from now on", Args: cobra.ExactArgs(1),
		Long:    "Talk to this server from now on, where neither flags nor the environment say another.",
		Example: "  hyperfleet context use build-host\n  hyperfleet context use default",
		RunE:    func(_ *cobra.Command, args []string) error { return runContextUse(g, args[0]) },
	}
}

func runContextUse(g *globals, name string) error {
	err := g.updateContexts(func(f *contextFile) error {
		_, err := f.find(name)
		f.Current = name
		return err
	})
	if err != nil {
		return err
	}
	for _, variable := range []string{"HYPERFLEET_HOST", "HYPERFLEET_CONTEXT", "HYPERFLEET_RUN_DIR"} {
		if g.Getenv(variable) != "" {
			g.warn([]string{variable + " is set, and wins over the current context"})
		}
	}
	return g.print(map[string]string{"name": name}, name)
}

func newContextRmCommand(g *globals) *cobra.Command {
	return &cobra.Command{
		Use: "rm CONTEXT...", Short: "Forget servers and their keys", Args: cobra.MinimumNArgs(1),
		Long:    "Forget servers and their keys. The keys themselves stay valid until they are revoked.",
		Example: "  hyperfleet context rm build-host",
		RunE:    func(_ *cobra.Command, args []string) error { return runContextRm(g, args) },
	}
}

func runContextRm(g *globals, names []string) error {
	return g.updateContexts(func(f *contextFile) error {
		for _, name := range names {
			if name == defaultContext {
				return fmt.Errorf("the context %q is always there", defaultContext)
			}
			if _, err := f.find(name); err != nil {
				return err
			}
			delete(f.Contexts, name)
			if f.Current == name {
				f.Current = ""
			}
		}
		return nil
	})
}

func contextCompletions(_ context.Context, g *globals) []string {
	file, err := g.readContexts()
	if err != nil {
		return nil
	}
	names := file.names()
	for i, name := range names {
		c, err := file.find(name)
		if err != nil {
			return nil
		}
		names[i] = name + "\t" + c.address()
	}
	return names
}
