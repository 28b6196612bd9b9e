package cli

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/hyperfleet/hyperfleet"
)

// completionTimeout bounds what a press of the tab key waits for. A daemon that
// takes longer has no names to offer.
const completionTimeout = 500 * time.Millisecond

// namesOf lists what a shell offers for a kind of argument, each perhaps with a
// description behind a tab. Its key is the word in a command's Use.
var namesOf = map[string]func(context.Context, *globals) []string{
	"MACHINE": machineNames,
	"IMAGE":   imageNames,
	"ID":      keyNames,
	"CONTEXT": contextCompletions,
}

// valuesOf lists what a flag takes.
var valuesOf = map[string][]cobra.Completion{
	"output": {"table", "json"},
	"status": {"pending", "starting", "running", "paused", "stopping", "stopped", "failed"},
}

// addCompletion gives cmd and every command below the names of what its Use
// says that it takes: "rm MACHINE..." is completed with machines. It runs once,
// when the tree is whole.
func addCompletion(cmd *cobra.Command, g *globals) {
	if cmd.ValidArgsFunction == nil && cmd.Runnable() {
		cmd.ValidArgsFunction = g.completeArguments(arguments(cmd))
	}
	for flag, values := range valuesOf {
		// Only an unknown flag is an error, and what was registered stays.
		if cmd.LocalFlags().Lookup(flag) != nil {
			_ = cmd.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp))
		}
	}
	if cmd.LocalFlags().Lookup("context") != nil {
		_ = cmd.RegisterFlagCompletionFunc("context", g.completeArguments([]string{"CONTEXT..."}))
	}
	for _, sub := range cmd.Commands() {
		addCompletion(sub, g)
	}
}

// arguments are the words of a command's Use that stand for its positional
// arguments.
func arguments(cmd *cobra.Command) []string {
	var words []string
	for _, word := range strings.Fields(cmd.Use)[1:] {
		if word = strings.Trim(word, "[]"); word != "OPTION..." && word != "--" {
			words = append(words, word)
		}
	}
	return words
}

func (g *globals) completeArguments(words []string) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, typed string) ([]cobra.Completion, cobra.ShellCompDirective) {
		word := ""
		switch n := len(args); {
		case n < len(words):
			word = words[n]
		case len(words) > 0 && strings.HasSuffix(words[len(words)-1], "..."):
			word = words[len(words)-1]
		}
		noun := strings.TrimSuffix(word, "...")
		switch noun {
		case "FILE", "DIR":
			return nil, cobra.ShellCompDirectiveDefault
		case "SOURCE", "DESTINATION":
			return g.completePath(cmd.Context(), typed)
		}
		names, ok := namesOf[noun]
		if !ok {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return offer(g.listNames(cmd.Context(), names), args, typed), cobra.ShellCompDirectiveNoFileComp
	}
}

// listNames asks for names, for a short time.
func (g *globals) listNames(ctx context.Context, list func(context.Context, *globals) []string) []string {
	ctx, cancel := context.WithTimeout(ctx, completionTimeout)
	defer cancel()
	return list(ctx, g)
}

// offer keeps what starts with typed and was not given already.
func offer(names, given []string, typed string) []string {
	return slices.DeleteFunc(names, func(entry string) bool {
		name, _, _ := strings.Cut(entry, "\t")
		return !strings.HasPrefix(name, typed) || slices.Contains(given, name)
	})
}

// completePath completes MACHINE: before its colon, and local paths as the
// shell does.
func (g *globals) completePath(ctx context.Context, typed string) ([]string, cobra.ShellCompDirective) {
	if strings.ContainsAny(typed, ":/.") {
		return nil, cobra.ShellCompDirectiveDefault
	}
	names := offer(g.listNames(ctx, machineNames), nil, typed)
	for i, entry := range names {
		name, description, _ := strings.Cut(entry, "\t")
		names[i] = name + ":\t" + description
	}
	return names, cobra.ShellCompDirectiveNoSpace
}

func machineNames(ctx context.Context, g *globals) []string {
	if g.selectServer() != nil {
		return nil
	}
	c := g.client()
	defer c.CloseIdleConnections()
	list, err := c.ListMachines(ctx, hyperfleet.ListOptions{})
	if err != nil {
		return nil
	}
	names := make([]string, len(list))
	for i, m := range list {
		name := m.Name
		if slices.ContainsFunc(list, func(other hyperfleet.Machine) bool { return other.Name == name && other.ID != m.ID }) {
			name = m.ID // its name alone says not which
		}
		names[i] = name + "\t" + string(m.Status) + ", " + imageOf(m)
	}
	return names
}

func imageNames(ctx context.Context, g *globals) []string {
	if g.selectServer() != nil {
		return nil
	}
	c := g.client()
	defer c.CloseIdleConnections()
	list, err := c.ListImages(ctx)
	if err != nil {
		return nil
	}
	var names []string
	for _, img := range list {
		for _, ref := range img.Refs {
			names = append(names, ref+"\t"+size(img.SizeBytes))
		}
	}
	return names
}

// keyNames are the ids of API keys, which have no other unique name.
func keyNames(ctx context.Context, g *globals) []string {
	if g.selectServer() != nil {
		return nil
	}
	c := g.client()
	defer c.CloseIdleConnections()
	var names []string
	for k, err := range c.Keys(ctx) {
		if err != nil {
			return nil
		}
		names = append(names, k.ID+"\t"+k.Name+", "+keyState(k, time.Now()))
	}
	return names
}
