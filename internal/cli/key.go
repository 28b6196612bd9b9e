package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/hyperfleet/hyperfleet"
)

func newKeyCommand(g *globals) *cobra.Command {
	cmd := &cobra.Command{Use: "key", Aliases: []string{"keys"}, Short: "Work with API keys"}
	cmd.AddCommand(newKeyCreateCommand(g), newKeyListCommand(g), newKeyInspectCommand(g), newKeyRevokeCommand(g))
	return cmd
}

// KeyCreateOptions are the options of key create.
type KeyCreateOptions struct {
	scopes  []string
	expires time.Duration
}

// AddFlags adds the options' flags.
func (o *KeyCreateOptions) AddFlags(f *pflag.FlagSet) {
	f.StringSliceVar(&o.scopes, "scope", nil, "what the key may do, such as machines:read; repeat it for more (default everything)")
	f.DurationVar(&o.expires, "expires", 0, "how long the key lives, such as 720h (default for ever)")
}

func newKeyCreateCommand(g *globals) *cobra.Command {
	var o KeyCreateOptions
	cmd := &cobra.Command{
		Use: "create NAME", Short: "Create an API key and print it, this once", Args: cobra.ExactArgs(1),
		Long: "Create an API key and print it, this once. Standard output has the key alone.\n\nScopes: machines:read, machines:write, machines:exec, images:read, images:write,\nkeys:read, keys:write, each resource with a star (machines:*), and *.",
		Example: `  hyperfleet key create admin
  export HYPERFLEET_API_KEY=$(hyperfleet key create ci --scope 'machines:*' --scope images:read --expires 720h)`,
		RunE: func(cmd *cobra.Command, args []string) error { return runKeyCreate(cmd.Context(), o, g, args[0]) },
	}
	o.AddFlags(cmd.Flags())
	return cmd
}

func runKeyCreate(ctx context.Context, o KeyCreateOptions, g *globals, name string) error {
	req := hyperfleet.CreateKeyRequest{Name: name, Scopes: o.scopes}
	if o.expires < 0 {
		return fmt.Errorf("--expires %v: want a time above 0", o.expires)
	}
	if o.expires > 0 {
		end := time.Now().Add(o.expires)
		req.ExpiresAt = &end
	}
	k, err := g.client().CreateKey(ctx, req)
	if err != nil {
		return err
	}
	if g.output == "json" {
		return g.printJSON(k)
	}
	fmt.Fprintf(g.Stderr, "key %s with scopes %s; it is told this once: keep it, and send it as HYPERFLEET_API_KEY\n", k.ID, strings.Join(k.Scopes, ", "))
	_, err = fmt.Fprintln(g.Stdout, k.Secret)
	return err
}

func newKeyListCommand(g *globals) *cobra.Command {
	return &cobra.Command{
		Use: "ls", Aliases: []string{"list"}, Short: "List API keys, revoked and expired ones too", Args: cobra.NoArgs,
		Example: "  hyperfleet key ls\n  hyperfleet key ls -o json",
		RunE:    func(cmd *cobra.Command, _ []string) error { return runKeyList(cmd.Context(), g) },
	}
}

func runKeyList(ctx context.Context, g *globals) error {
	list := []hyperfleet.Key{}
	for k, err := range g.client().Keys(ctx) {
		if err != nil {
			return err
		}
		list = append(list, k)
	}
	if g.output == "json" {
		return g.printJSON(list)
	}
	rows := make([][]string, len(list))
	for i, k := range list {
		rows[i] = []string{k.ID, k.Name, k.KeyPrefix, strings.Join(k.Scopes, ","), keyState(k, time.Now()), lastUse(k)}
	}
	return g.printTable([]string{"ID", "NAME", "PREFIX", "SCOPES", "STATE", "LAST USED"}, rows)
}

func keyState(k hyperfleet.Key, now time.Time) string {
	switch {
	case k.RevokedAt != nil:
		return "revoked"
	case k.ExpiresAt == nil:
		return "usable"
	case now.Before(*k.ExpiresAt):
		return "until " + k.ExpiresAt.Local().Format(time.DateTime)
	}
	return "expired"
}

func lastUse(k hyperfleet.Key) string {
	if k.LastUsedAt == nil {
		return "never"
	}
	return k.LastUsedAt.Local().Format(time.DateTime)
}

func newKeyInspectCommand(g *globals) *cobra.Command {
	return &cobra.Command{
		Use: "inspect ID...", Short: "Print the records of API keys as JSON", Args: cobra.MinimumNArgs(1),
		Example: "  hyperfleet key inspect 5kq2wz7ndtyb",
		RunE:    func(cmd *cobra.Command, args []string) error { return runKeyInspect(cmd.Context(), g, args) },
	}
}

func runKeyInspect(ctx context.Context, g *globals, ids []string) error {
	c := g.client()
	list := make([]hyperfleet.Key, len(ids))
	for i, id := range ids {
		if err := keyID(id); err != nil {
			return err
		}
		k, err := c.Key(ctx, id)
		if err != nil {
			return fmt.Errorf("key %s: %w", id, err)
		}
		list[i] = k
	}
	return g.printJSON(list)
}

func newKeyRevokeCommand(g *globals) *cobra.Command {
	return &cobra.Command{
		Use: "revoke ID...", Aliases: []string{"rm"}, Short: "End API keys for good", Args: cobra.MinimumNArgs(1),
		Example: "  hyperfleet key revoke 5kq2wz7ndtyb",
		RunE:    func(cmd *cobra.Command, args []string) error { return runKeyRevoke(cmd.Context(), g, args) },
	}
}

func runKeyRevoke(ctx context.Context, g *globals, ids []string) error {
	c := g.client()
	var errs []error
	for _, id := range ids {
		err := keyID(id)
		if err == nil {
			err = c.RevokeKey(ctx, id)
			if err != nil {
				err = fmt.Errorf("key %s: %w", id, err)
			}
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// keyID refuses a key in the place of its id, before it gets into a log.
func keyID(id string) error {
	if strings.HasPrefix(id, "hf_") {
		return errors.New("that is a key itself: give its id, which \"hyperfleet key ls\" tells")
	}
	return nil
}
