package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/aymanbagabas/go-udiff"
	"github.com/google/uuid"
	"github.com/spf13/cobra"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	identityv1 "github.com/cetrus/cetrus/proto/cetrus/identity/v1"
	meteringv1 "github.com/cetrus/cetrus/proto/cetrus/metering/v1"

	"github.com/cetrus/cetrus/ctl/manifest"
	"github.com/cetrus/cetrus/ctl/table"
)

// wantedFlags say which files are compared, and what else is to go.
type wantedFlags struct {
	files []string
	prune []string
}

// prunable are the kinds of which there are many.
var prunable = map[string]string{"applications": manifest.Application, "groups": manifest.Group}

func (w *wantedFlags) flags(c *cobra.Command) {
	c.Flags().StringArrayVarP(&w.files, "filename", "f", nil, "file, folder of *.yaml files, or - for the standard input; may be repeated")
	c.Flags().StringSliceVar(&w.prune, "prune", nil, "also delete what no file names, of these: applications, groups")
	must(c.RegisterFlagCompletionFunc("filename", func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return []string{"yaml", "yml"}, cobra.ShellCompDirectiveDefault
	}))
	must(c.RegisterFlagCompletionFunc("prune", cobra.FixedCompletions([]string{"applications", "groups"}, cobra.ShellCompDirectiveNoFileComp)))
}

// plan reads the files and compares them with what there is.
func (s *session) plan(ctx context.Context, w wantedFlags) (*manifest.Live, []manifest.Change, error) {
	if len(w.files) == 0 {
		return nil, nil, usagef("say which files with -f")
	}
	var prune []string
	for _, name := range w.prune {
		kind, ok := prunable[name]
		if !ok {
			return nil, nil, usagef("--prune takes applications and groups, and not %q", name)
		}
		prune = append(prune, kind)
	}
	documents, err := manifest.Load(w.files, s.In)
	if err != nil {
		return nil, nil, err
	}
	if len(documents) == 0 {
		return nil, nil, fmt.Errorf("there is no document in %s", strings.Join(w.files, ", "))
	}
	kinds := slices.Clone(prune)
	for _, d := range documents {
		kinds = append(kinds, d.Kind)
	}
	live, err := s.live(ctx, kinds)
	if err != nil {
		return nil, nil, err
	}
	changes, err := manifest.Plan(live, documents, prune)
	return live, changes, err
}

// live asks what there is, as far as kinds need it.
func (s *session) live(ctx context.Context, kinds []string) (*manifest.Live, error) {
	a, err := s.api()
	if err != nil {
		return nil, err
	}
	q := &question{ctx: ctx, s: s, a: a}
	live := &manifest.Live{}
	need := func(of ...string) bool {
		return slices.ContainsFunc(of, func(kind string) bool { return slices.Contains(kinds, kind) })
	}
	if need(manifest.Application, manifest.Group, manifest.ExpenseToProject) {
		if err := applicationsResource.each(q, func(items []*meteringv1.Application) error {
			live.Applications = append(live.Applications, items...)
			return nil
		}); err != nil {
			return nil, err
		}
	}
	if need(manifest.Group) {
		if err := groups(q, func(items []*identityv1.Group) error {
			live.Groups = append(live.Groups, items...)
			return nil
		}); err != nil {
			return nil, err
		}
		if err := logins(q, "", func(items []*identityv1.Login) error {
			live.Logins = append(live.Logins, items...)
			return nil
		}); err != nil {
			return nil, err
		}
	}
	if need(manifest.Settings) {
		answer, err := a.settings.GetSettings(ctx, &meteringv1.GetSettingsRequest{})
		if err != nil {
			return nil, err
		}
		live.Settings = answer.GetSettings()
	}
	if need(manifest.SignInPolicy) {
		answer, err := a.signIn.GetSignInPolicy(ctx, &identityv1.GetSignInPolicyRequest{})
		if err != nil {
			return nil, err
		}
		live.SignIn = answer.GetPolicy()
	}
	if need(manifest.ExpenseToProject) {
		answer, err := a.expense.GetExpenseToProject(ctx, &meteringv1.GetExpenseToProjectRequest{})
		if err != nil {
			return nil, err
		}
		live.Expense = answer.GetExpenseToProject()
	}
	return live, nil
}

// show writes the differences.
func (s *session) show(out io.Writer, changes []manifest.Change) error {
	coloured := s.coloured()
	paint := func(line string) string {
		line = table.Clean(line)
		if !coloured || line == "" {
			return line
		}
		const red, green, blue, bold, plain = "\x1b[31m", "\x1b[32m", "\x1b[36m", "\x1b[1m", "\x1b[0m"
		switch {
		case strings.HasPrefix(line, "---"), strings.HasPrefix(line, "+++"):
			return bold + line + plain
		case line[0] == '-':
			return red + line + plain
		case line[0] == '+':
			return green + line + plain
		case line[0] == '@':
			return blue + line + plain
		}
		return line
	}
	for _, c := range changes {
		is, shall := "platform: "+c.Title, "files: "+c.Title
		switch c.Action {
		case manifest.Create:
			is = "platform: (none)"
		case manifest.Delete:
			shall = "files: (none)"
		case manifest.Update:
		}
		for line := range strings.Lines(udiff.Unified(is, shall, string(c.Before), string(c.After))) {
			if _, err := fmt.Fprintln(out, paint(strings.TrimRight(line, "\n"))); err != nil {
				return err
			}
		}
	}
	return nil
}

// counted is how many of each there are: "2 to create, 1 to delete".
func counted(changes []manifest.Change) string {
	var n [3]int
	for _, c := range changes {
		n[c.Action]++
	}
	var parts []string
	for action, count := range n {
		if count > 0 {
			parts = append(parts, fmt.Sprintf("%d to %s", count, manifest.Action(action)))
		}
	}
	return strings.Join(parts, ", ")
}

func (s *session) diffCommand() *cobra.Command {
	var w wantedFlags
	c := &cobra.Command{
		Use: "diff -f FILE|DIR|-", Short: "Compare files of settings with what the platform has",
		Long:    "Compares files of applications, groups and settings with what the platform has, and writes what apply\nwould change. It ends with 0 where there is no difference, and with 3 where there are some.",
		Example: "  cetrusctl diff -f settings/\n  cetrusctl get application Firefox -o yaml | sed 's/timeout: .*/timeout: 20m/' | cetrusctl diff -f -",
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			_, changes, err := s.plan(c.Context(), w)
			if err != nil {
				return err
			}
			if len(changes) == 0 {
				return nil
			}
			if err := s.show(s.Out, changes); err != nil {
				return err
			}
			return errDifferences
		},
	}
	w.flags(c)
	return c
}

func (s *session) applyCommand() *cobra.Command {
	var w wantedFlags
	var dry, yes, wait bool
	var patience time.Duration
	c := &cobra.Command{
		Use: "apply -f FILE|DIR|-", Short: "Make the platform like files of settings, with the differences first",
		Long: `Makes applications, groups and settings like files say, after it has shown the differences and asked.
What is as the files say is not touched, and what no file names is left alone, unless --prune names
its kind. An application or a group in a file is the whole of it; of settings the fields that are named
are changed. docs/cetrusctl.md tells what each kind may say; get -o yaml writes such files.

What somebody else has changed since it was read is never overwritten.`,
		Example: `  cetrusctl get applications -o yaml > applications.yaml
  cetrusctl apply -f applications.yaml
  cetrusctl apply -f settings/ --prune groups --yes --wait`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			ctx := c.Context()
			live, changes, err := s.plan(ctx, w)
			if err != nil {
				return err
			}
			if len(changes) == 0 {
				_, err := fmt.Fprintln(s.Err, "There is nothing to change.")
				return err
			}
			if err := s.show(s.Out, changes); err != nil {
				return err
			}
			fmt.Fprintf(s.Err, "%s.\n", counted(changes))
			if dry {
				return nil
			}
			if !yes {
				if slices.Contains(w.files, "-") {
					return usagef("the standard input holds the files, so nobody can be asked there: give --yes, or --dry-run")
				}
				if _, is := terminal(s.In); !is {
					return usagef("there is no terminal to ask at: give --yes, or --dry-run")
				}
				answer, err := s.asker(false).line(ctx, "Make these changes? [y/N]")
				if err != nil {
					return err
				}
				if a := strings.ToLower(strings.TrimSpace(answer)); a != "y" && a != "yes" {
					return errors.New("nothing was changed")
				}
			}
			revision, err := s.carryOut(ctx, live, changes)
			if err != nil || revision == 0 {
				return err
			}
			return s.rollout(ctx, revision, wait, patience)
		},
	}
	w.flags(c)
	c.Flags().BoolVar(&dry, "dry-run", false, "show the differences, and change nothing")
	c.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	c.Flags().BoolVar(&wait, "wait", false, "wait until all connected agents have the change")
	c.Flags().DurationVar(&patience, "wait-for", 2*time.Minute, "how long --wait waits at most")
	return c
}

// carryOut makes the changes, and tells the revision of the policy with which agents have all of them;
// 0: agents are not concerned.
func (s *session) carryOut(ctx context.Context, live *manifest.Live, changes []manifest.Change) (revision int64, err error) {
	members := map[string][]string{} // of groups, by their ids
	told := false
	for i, c := range changes {
		if c.Action == manifest.Delete { // these are last, and no login can be said to be in a group that is gone
			if err := s.join(ctx, live, members); err != nil {
				return 0, err
			}
			clear(members)
		}
		group, at, err := s.carryOutOne(ctx, live, c)
		if err == nil && c.Wanted != nil && c.Wanted.Members != nil {
			members[group] = *c.Wanted.Members
		}
		if err != nil {
			if i > 0 {
				fmt.Fprintf(s.Err, "%d of %d changes were made; apply again goes on from there.\n", i, len(changes))
			}
			return 0, placed(c, err)
		}
		told = told || c.Kind != manifest.Group && c.Kind != manifest.SignInPolicy
		revision = max(revision, at)
		fmt.Fprintf(s.Err, "%sd %s\n", c.Action, table.Clean(c.Title))
	}
	if err := s.join(ctx, live, members); err != nil {
		return 0, err
	}
	if !told {
		return 0, nil
	}
	if revision == 0 { // settings do not tell theirs: the last change is the account's last
		a, err := s.api()
		if err != nil {
			return 0, err
		}
		answer, err := a.agents.GetPolicyRollout(ctx, &meteringv1.GetPolicyRolloutRequest{})
		return answer.GetRollout().GetRevision(), err
	}
	return revision, nil
}

// carryOutOne makes one change; group is the id of a group that it made or changed.
func (s *session) carryOutOne(ctx context.Context, live *manifest.Live, c manifest.Change) (group string, revision int64, err error) {
	a, err := s.api()
	if err != nil {
		return "", 0, err
	}
	id := uuid.NewString()
	switch c.Kind {
	case manifest.Application:
		there, _ := c.There.(*meteringv1.Application)
		if c.Action == manifest.Delete {
			answer, err := a.applications.DeleteApplication(ctx, &meteringv1.DeleteApplicationRequest{ApplicationId: there.GetApplicationId(), RequestId: id})
			return "", answer.GetPolicyRevision(), err
		}
		want := manifest.ApplicationOf(c.Wanted, there)
		if c.Action == manifest.Create {
			answer, err := a.applications.CreateApplication(ctx, &meteringv1.CreateApplicationRequest{Application: want, RequestId: id})
			if err == nil {
				live.Applications = append(live.Applications, answer.GetApplication())
			}
			return "", answer.GetApplication().GetPolicyRevision(), err
		}
		answer, err := a.applications.UpdateApplication(ctx, &meteringv1.UpdateApplicationRequest{Application: want, RequestId: id, UpdateMask: &fieldmaskpb.FieldMask{Paths: manifest.Fields(want)}})
		return "", answer.GetApplication().GetPolicyRevision(), err
	case manifest.Group:
		there, _ := c.There.(*identityv1.Group)
		if c.Action == manifest.Delete {
			_, err := a.groups.DeleteGroup(ctx, &identityv1.DeleteGroupRequest{GroupId: there.GetGroupId(), RequestId: id})
			return "", 0, err
		}
		want := manifest.GroupOf(c.Wanted, there, live)
		if c.Action == manifest.Create {
			answer, err := a.groups.CreateGroup(ctx, &identityv1.CreateGroupRequest{Group: want, RequestId: id})
			return answer.GetGroup().GetGroupId(), 0, err
		}
		_, err := a.groups.UpdateGroup(ctx, &identityv1.UpdateGroupRequest{Group: want, RequestId: id, UpdateMask: &fieldmaskpb.FieldMask{Paths: manifest.Fields(want)}})
		return there.GetGroupId(), 0, err
	case manifest.Settings:
		_, err = a.settings.UpdateSettings(ctx, &meteringv1.UpdateSettingsRequest{Settings: c.Wanted.Message.(*meteringv1.Settings), RequestId: id, UpdateMask: &fieldmaskpb.FieldMask{Paths: c.Wanted.Says}})
	case manifest.SignInPolicy:
		_, err = a.signIn.UpdateSignInPolicy(ctx, &identityv1.UpdateSignInPolicyRequest{Policy: c.Wanted.Message.(*identityv1.SignInPolicy), RequestId: id, UpdateMask: &fieldmaskpb.FieldMask{Paths: c.Wanted.Says}})
	case manifest.ExpenseToProject:
		want := manifest.ExpenseOf(c.Wanted, live.Expense, live, uuid.NewString)
		_, err = a.expense.UpdateExpenseToProject(ctx, &meteringv1.UpdateExpenseToProjectRequest{ExpenseToProject: want, RequestId: id, UpdateMask: &fieldmaskpb.FieldMask{Paths: c.Wanted.Says}})
	}
	return "", 0, err
}

// join has logins be in exactly the groups that name them, of those that say who is in them.
func (s *session) join(ctx context.Context, live *manifest.Live, members map[string][]string) error {
	if len(members) == 0 {
		return nil
	}
	a, err := s.api()
	if err != nil {
		return err
	}
	for _, login := range live.Logins {
		groups := slices.DeleteFunc(slices.Clone(login.GetGroupIds()), func(id string) bool {
			names, said := members[id]
			return said && !slices.Contains(names, login.GetName())
		})
		for id, names := range members {
			if slices.Contains(names, login.GetName()) && !slices.Contains(groups, id) {
				groups = append(groups, id)
			}
		}
		slices.Sort(groups)
		before := slices.Sorted(slices.Values(login.GetGroupIds()))
		if slices.Equal(groups, before) {
			continue
		}
		if _, err := a.logins.UpdateLogin(ctx, &identityv1.UpdateLoginRequest{
			Login:      &identityv1.Login{LoginId: login.GetLoginId(), GroupIds: groups, Etag: login.GetEtag()},
			UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"group_ids"}}, RequestId: uuid.NewString(),
		}); err != nil {
			return fmt.Errorf("groups of login %s: %w", login.GetName(), err)
		}
		fmt.Fprintf(s.Err, "updated groups of login %s\n", table.Clean(login.GetName()))
	}
	return nil
}

// refusedError is what the platform refused, told where it stands in a file.
type refusedError struct{ lines []string }

func (e *refusedError) Error() string { return strings.Join(e.lines, "\n") }

// placed says of an error which change it is about, and of fields where they stand.
func placed(c manifest.Change, err error) error {
	st, said := status.FromError(err)
	if !said {
		return err
	}
	var lines []string
	for _, detail := range st.Details() {
		switch d := detail.(type) {
		case *errdetails.BadRequest:
			for _, v := range d.GetFieldViolations() {
				place, path := "", v.GetField()
				if c.Wanted != nil {
					_, inner, nested := strings.Cut(path, ".")
					if !nested {
						inner = path
					}
					place = c.Wanted.PlaceOf(inner).String() + ": "
				}
				lines = append(lines, fmt.Sprintf("%s%s: %s: %s", place, c.Title, path, v.GetDescription()))
			}
		case *errdetails.ErrorInfo:
			if d.GetReason() == "ETAG_MISMATCH" {
				return fmt.Errorf("%s was changed by somebody else just now, and was not overwritten: compare again with diff", c.Title)
			}
		}
	}
	if len(lines) == 0 {
		return fmt.Errorf("%s: %w", c.Title, err)
	}
	return &refusedError{lines}
}

// rollout tells how many agents have a change, once or until all have it.
func (s *session) rollout(ctx context.Context, revision int64, wait bool, patience time.Duration) error {
	a, err := s.api()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	progress := s.progress()
	defer progress.done()
	for {
		answer, err := a.agents.GetPolicyRollout(ctx, &meteringv1.GetPolicyRolloutRequest{Revision: revision})
		if errors.Is(err, context.DeadlineExceeded) {
			return fmt.Errorf("after %v it is not known how many agents have it: the change is made, and they follow", patience)
		}
		if err != nil {
			return err
		}
		r := answer.GetRollout()
		have := fmt.Sprintf("%d of %s have it", r.GetCurrentCount(), plural(int(r.GetConnectedCount()), "connected agent", "connected agents"))
		if r.GetAwayCount() > 0 {
			have += fmt.Sprintf("; %d that are away get it when they connect", r.GetAwayCount())
		}
		if r.GetRefusedCount() > 0 {
			have += fmt.Sprintf("; %d say that they cannot put it into force: cetrusctl get agents --condition policy -o wide", r.GetRefusedCount())
		}
		if !wait || r.GetCurrentCount()+r.GetRefusedCount() >= r.GetConnectedCount() {
			progress.done()
			_, err := fmt.Fprintf(s.Err, "%s.\n", have)
			if err == nil && wait && r.GetRefusedCount() > 0 {
				err = errors.New("not all agents have put the change into force")
			}
			return err
		}
		progress.say(have)
		timer := time.NewTimer(500 * time.Millisecond)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			progress.done()
			if errors.Is(ctx.Err(), context.DeadlineExceeded) {
				return fmt.Errorf("after %v %s: the change is made, and the others follow", patience, have)
			}
			return ctx.Err()
		}
	}
}
