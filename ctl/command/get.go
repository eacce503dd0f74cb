package command

import (
	"context"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"google.golang.org/protobuf/proto"
)

// maxPage is the most that the API gives at once.
const maxPage = 1000

// question is what a list is asked.
type question struct {
	ctx context.Context // a question is asked within one command
	s   *session
	a   *api
	// limit is how many at most; 0: all.
	limit int32
	// period is that of lists that take one.
	period periodFlags
}

// pages asks page by page, and hands each on, until there are no more or limit is reached.
func pages[T any](q *question, ask func(size int32, token string) ([]T, string, error), yield func([]T) error) error {
	left, token := q.limit, ""
	for {
		size := int32(maxPage)
		if q.limit > 0 {
			size = min(size, left)
		}
		items, next, err := ask(size, token)
		if err != nil {
			return err
		}
		if q.limit > 0 && int32(len(items)) > left {
			items = items[:left]
		}
		if err := yield(items); err != nil {
			return err
		}
		left -= int32(len(items))
		if token = next; token == "" || q.limit > 0 && left <= 0 {
			return nil
		}
	}
}

// resource is something that can be listed.
type resource[T proto.Message] struct {
	name    string // in the plural
	aliases []string
	short   string
	long    string
	example string
	columns []column[T]
	// flags adds its own.
	flags func(s *session, c *cobra.Command)
	// each asks for all of them, in the order of the API.
	each func(q *question, yield func([]T) error) error
	// names are what an item is called: its id first.
	names func(T) []string
	// manifest is how an item is kept in a file; nil: as the API has it.
	manifest func(q *question) (func(T) ([]byte, error), error)
	// timed says that it takes a period.
	timed string
}

// command is `get NAME`.
func (r resource[T]) command(s *session) *cobra.Command {
	var f format
	var limit int32
	q := &question{s: s}
	c := &cobra.Command{
		Use: r.name, Aliases: r.aliases, Short: r.short, Long: strings.TrimSpace(r.short + ".\n\n" + r.long), Example: r.example,
		Args: cobra.NoArgs,
	}
	if r.names != nil {
		c.Use += " [NAME|ID ...]"
		c.Args = cobra.ArbitraryArgs
		c.ValidArgsFunction = func(c *cobra.Command, _ []string, word string) ([]string, cobra.ShellCompDirective) {
			return s.complete(c, word, func(ctx context.Context, a *api) ([]string, error) {
				var names []string
				asked := *q
				asked.ctx, asked.a, asked.limit = ctx, a, maxPage
				err := r.each(&asked, func(items []T) error {
					for _, item := range items {
						all := r.names(item)
						names = append(names, all[len(all)-1])
					}
					return nil
				})
				return names, err
			})
		}
	}
	f.flags(c, "table", "wide", "json", "yaml", "csv")
	c.Flags().Int32Var(&limit, "limit", 0, "at most so many; 0 for all")
	if r.timed != "" {
		q.period.flags(c, r.timed)
	}
	if r.flags != nil {
		r.flags(s, c)
	}
	c.RunE = func(c *cobra.Command, args []string) error {
		if limit < 0 {
			return usagef("--limit is a number from 0 on")
		}
		a, err := s.api()
		if err != nil {
			return err
		}
		q.ctx, q.a, q.limit = c.Context(), a, limit
		var manifest func(T) ([]byte, error)
		if r.manifest != nil && f.name == "yaml" {
			if manifest, err = r.manifest(q); err != nil {
				return err
			}
		}
		w := writerOf(c.Context(), s, f, r.columns, manifest)
		if len(args) > 0 {
			items, err := r.find(q, args)
			if err != nil {
				return err
			}
			if err := w.write(items); err != nil {
				return err
			}
			return w.close()
		}
		if err := r.each(q, w.write); err != nil {
			return err
		}
		return w.close()
	}
	return c
}

// find finds items by name or id, in the order in which they were named.
func (r resource[T]) find(q *question, wanted []string) ([]T, error) {
	found := make([][]T, len(wanted))
	var known []string
	all := *q
	all.limit = 0
	if err := r.each(&all, func(items []T) error {
		for _, item := range items {
			names := r.names(item)
			known = append(known, names[len(names)-1])
			for i, want := range wanted {
				for _, name := range names {
					if name != "" && strings.EqualFold(name, want) {
						found[i] = append(found[i], item)
						break
					}
				}
			}
		}
		return nil
	}); err != nil {
		return nil, err
	}
	var items []T
	for i, want := range wanted {
		if len(found[i]) == 0 {
			return nil, unknown(r.name, want, known)
		}
		items = append(items, found[i]...)
	}
	return items, nil
}

func (s *session) getCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "get", Aliases: []string{"list", "ls"}, Short: "List what there is: applications, people, agents, …",
		Long: `Lists what there is of a kind, all pages of it, or the ones named by NAME or ID.

-o table fits the terminal, -o wide shows more columns, -o csv all of them; -o json is what the API
answers; -o yaml of applications, groups and settings is what apply reads.`,
		Example: `  cetrusctl get applications
  cetrusctl get application Firefox -o yaml
  cetrusctl get agents --condition silent -o wide
  cetrusctl get logins --group Design -o csv > design.csv`,
	}
	c.AddCommand(
		applicationsResource.command(s), seenProgramsResource().command(s), templatesResource().command(s),
		loginsResource().command(s), peopleResource.command(s), groupsResource.command(s), keysResource().command(s),
		managersResource.command(s), agentsResource().command(s), machinesResource.command(s), tokensResource().command(s),
		auditResource().command(s), instancesResource().command(s), sessionsResource().command(s),
		savedReportsResource.command(s), reportRunsResource().command(s), reportFilesResource.command(s),
	)
	return c
}

// StringFlag adds a flag whose values are words of an enumeration.
func wordFlag(c *cobra.Command, flags *pflag.FlagSet, into *string, name, usage string, words []string) {
	flags.StringVar(into, name, "", usage+": "+strings.Join(words, ", "))
	must(c.RegisterFlagCompletionFunc(name, cobra.FixedCompletions(words, cobra.ShellCompDirectiveNoFileComp)))
}
