package command

import (
	"context"

	"github.com/spf13/cobra"

	identityv1 "github.com/cetrus/cetrus/proto/cetrus/identity/v1"
	meteringv1 "github.com/cetrus/cetrus/proto/cetrus/metering/v1"

	"github.com/cetrus/cetrus/ctl/period"
)

// periodFlags are --period, --from and --to.
type periodFlags struct {
	name, from, to string
	// preset is what holds where none is given.
	preset string
}

func (p *periodFlags) flags(c *cobra.Command, preset string) {
	p.preset = preset
	usage := "period in the account's zone, as last-month, 7d, 2026-03, 2026-Q1 or 2026-03-01..2026-03-14"
	if preset != "any" {
		usage += "; " + preset + " where none is given"
	}
	c.Flags().StringVar(&p.name, "period", "", usage)
	c.Flags().StringVar(&p.from, "from", "", "first day, or moment, of the period")
	c.Flags().StringVar(&p.to, "to", "", "last day, or the moment that ends it")
	must(c.RegisterFlagCompletionFunc("period", cobra.FixedCompletions(append(period.Names(), "7d", "30d", "12m"), cobra.ShellCompDirectiveNoFileComp)))
	must(c.RegisterFlagCompletionFunc("from", cobra.NoFileCompletions))
	must(c.RegisterFlagCompletionFunc("to", cobra.NoFileCompletions))
}

// read is the period that was meant; ok is false where none was.
func (p *periodFlags) read(ctx context.Context, s *session) (read period.Period, ok bool, err error) {
	switch {
	case p.name != "" && (p.from != "" || p.to != ""):
		return read, false, usagef("give either --period or --from and --to")
	case p.from != "" || p.to != "":
		read, err = period.Between(p.from, p.to, s.Now(), s.zone(ctx))
	case p.name == "" && p.preset == "any":
		return read, false, nil
	default:
		name := p.name
		if name == "" {
			name = p.preset
		}
		read, err = period.Parse(name, s.Now(), s.zone(ctx))
	}
	if err != nil {
		return read, false, usageError{err}
	}
	return read, true, nil
}

// filterFlags narrow reports by names.
type filterFlags struct {
	applications, people, machines, groups, sites []string
}

func (f *filterFlags) flags(s *session, c *cobra.Command) {
	flags := c.Flags()
	flags.StringArrayVar(&f.applications, "application", nil, "only of this application, by name or id; may be repeated, as the others")
	flags.StringArrayVar(&f.people, "person", nil, "only of this person")
	flags.StringArrayVar(&f.machines, "machine", nil, "only on this machine")
	flags.StringArrayVar(&f.groups, "group", nil, "only of people in this group")
	flags.StringArrayVar(&f.sites, "site", nil, "only on machines of this Manager")
	must(c.RegisterFlagCompletionFunc("application", completeNames(s, applicationsResource)))
	must(c.RegisterFlagCompletionFunc("person", completeNames(s, peopleResource)))
	must(c.RegisterFlagCompletionFunc("machine", completeNames(s, machinesResource)))
	must(c.RegisterFlagCompletionFunc("group", completeNames(s, groupsResource)))
	must(c.RegisterFlagCompletionFunc("site", completeNames(s, managersResource)))
}

// read is the filter with ids in place of names; nil where there is none.
func (f *filterFlags) read(q *question) (*meteringv1.UsageFilter, error) {
	filter, named := &meteringv1.UsageFilter{}, false
	var err error
	take := func(names []string, ids func() ([]string, error)) []string {
		if err != nil || len(names) == 0 {
			return nil
		}
		named = true
		var found []string
		found, err = ids()
		return found
	}
	filter.ApplicationIds = take(f.applications, func() ([]string, error) {
		return resolve(q, applicationsResource, f.applications, (*meteringv1.Application).GetApplicationId)
	})
	filter.PrincipalIds = take(f.people, func() ([]string, error) {
		return resolve(q, peopleResource, f.people, (*meteringv1.Principal).GetPrincipalId)
	})
	filter.MachineIds = take(f.machines, func() ([]string, error) {
		return resolve(q, machinesResource, f.machines, (*meteringv1.Agent).GetMachineId)
	})
	filter.GroupIds = take(f.groups, func() ([]string, error) {
		return resolve(q, groupsResource, f.groups, (*identityv1.Group).GetGroupId)
	})
	filter.ManagerIds = take(f.sites, func() ([]string, error) {
		return resolve(q, managersResource, f.sites, (*identityv1.Manager).GetManagerId)
	})
	if err != nil || !named {
		return nil, err
	}
	return filter, nil
}
