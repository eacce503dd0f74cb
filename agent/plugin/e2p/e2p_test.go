package e2p

import (
	"context"
	"errors"
	"testing"

	"github.com/cetrus/cetrus/agent/prompt"
	pluginv1 "github.com/cetrus/cetrus/proto/cetrus/plugin/v1"
	policyv1 "github.com/cetrus/cetrus/proto/cetrus/policy/v1"
)

func id(n byte) []byte { return append(make([]byte, 15), n) }

// A question is filled in with what the same person last chose in that application, failing
// that in another one, and with nothing of anybody else's.
func TestFilledInWithTheMostRecentChoice(t *testing.T) {
	t.Parallel()
	policy := &policyv1.Policy{ExpenseToProject: &policyv1.ExpenseToProject{
		Fields: []*policyv1.PromptField{{Key: "note", Label: "Note", Kind: policyv1.PromptFieldKind_PROMPT_FIELD_KIND_TEXT}},
	}}
	for _, n := range []byte{1, 2} {
		policy.Applications = append(policy.Applications, &policyv1.ApplicationPolicy{ApplicationId: id(n), DisplayName: "A", ProjectPrompt: &policyv1.ProjectPrompt{Enabled: true}})
	}
	settings, err := Settings(policy)
	if err != nil {
		t.Fatal(err)
	}
	filled, say := make(chan string), make(chan string)
	p := New(Deps{
		User: func([]byte) string { return "ada" }, Now: func() int64 { return 0 },
		Ask: func(_ context.Context, _ []byte, r prompt.Request) (prompt.Answer, error) {
			filled <- r.Fields[0].Value
			return prompt.Answer{Outcome: prompt.Chosen, Values: map[string]string{"note": <-say}}, nil
		},
	})
	if err := p.Configure(t.Context(), &pluginv1.ConfigureRequest{Policy: settings, Machine: &pluginv1.Machine{DataDir: t.TempDir()}}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	told, done := make(chan *pluginv1.ReportResponse), make(chan error, 1)
	go func() {
		done <- p.Report(ctx, func(r *pluginv1.ReportResponse) error {
			told <- r
			return nil
		})
	}()
	for n, c := range []struct {
		application, person byte
		want, says          string
	}{
		{application: 1, person: 1, want: "", says: "pier"},
		{application: 2, person: 1, want: "pier", says: "quay"},
		{application: 1, person: 1, want: "pier", says: "pier"},
		{application: 2, person: 1, want: "quay", says: "quay"},
		{application: 2, person: 2, want: "", says: "other"},
	} {
		event := &pluginv1.Event{
			Kind: pluginv1.EventKind_EVENT_KIND_OPENED, ApplicationId: id(c.application), InstanceId: id(byte(100 + n)),
			SessionId: id(3), PrincipalAlias: id(c.person),
		}
		if err := p.Notify(ctx, []*pluginv1.Event{event}); err != nil {
			t.Fatal(err)
		}
		if got := <-filled; got != c.want {
			t.Errorf("start %d is filled in with %q, want %q", n, got, c.want)
		}
		say <- c.says
		<-told
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}
