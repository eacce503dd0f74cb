package e2e

import (
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	meteringv1 "github.com/cetrus/cetrus/proto/cetrus/metering/v1"
	"github.com/cetrus/cetrus/proto/contract"
)

const (
	agentTier, managerTier, platformTier = "cetrus-agent", "cetrus-manager", "cetrus-all"
	// mostSeries bounds what one metric may cost a database, whoever uses the system.
	mostSeries = 60
)

// TestOneTraceFromDesktopToProjection opens a program on a real desktop and
// follows what becomes of it through every tier, by parents and by links.
func TestOneTraceFromDesktopToProjection(t *testing.T) {
	c := startCollector(t)
	s := startPlatform(t)
	m := s.startManager(mustID(t, s.where().AccountID))
	s.manager = m.agents
	desktop := startDesktop(t)
	created, err := s.api.CreateApplication(t.Context(), &meteringv1.Application{
		DisplayName: "The logo", Rules: []*meteringv1.Rule{{Executable: "xlogo"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	s.startAgent(desktop)
	eventually(t, time.Minute, "the agent to have the policy", func() error {
		status, err := s.status()
		if err == nil && len(status.Applications) != 1 {
			err = fmt.Errorf("status: %+v", status)
		}
		return err
	})
	logo := desktop.command("xlogo", "-title", windowTitle)
	startChild(t, logo)
	list := &meteringv1.ListInstancesResponse{}
	eventually(t, time.Minute, "the program to be counted", func() error {
		if err := s.api.Get(t.Context(), "/v1/instances", url.Values{"page_size": {"10"}}, list); err != nil {
			return err
		}
		if len(list.GetInstances()) != 1 {
			return fmt.Errorf("%d instances", len(list.GetInstances()))
		}
		return nil
	})
	// Questions of many kinds must not make many series either.
	for n := range 30 {
		id := contract.ID{15: byte(n)}.String()
		_ = s.api.Get(t.Context(), "/v1/instances/"+id+"/intervals", nil, &meteringv1.ListIntervalsResponse{})
		_ = s.api.Get(t.Context(), "/v1/"+id, nil, list)
	}

	eventually(t, time.Minute, "one trace from the journal to the projection", func() error { return c.follow(t) })
	eventually(t, time.Minute, "the figures of every tier that has some", func() error {
		for _, want := range []series{
			{managerTier, "cetrus.manager.records", ""},
			{managerTier, "cetrus.manager.backlog", ""},
			{platformTier, "cetrus.projection.messages", ""},
			{platformTier, "cetrus.projection.lag", ""},
			{platformTier, "http.server.request.duration", ""},
		} {
			if !slices.ContainsFunc(c.metrics(), func(s series) bool { return s.service == want.service && s.metric == want.metric }) {
				return fmt.Errorf("%s tells no %s", want.service, want.metric)
			}
		}
		return nil
	})
	c.checkLabels(t, created.GetApplicationId(), "xlogo", "The logo", windowTitle)
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.faults) > 0 {
		t.Errorf("what was exported cannot be read: %v", c.faults)
	}
}

// follow looks for a commit of the journal that a projection's commit goes back to.
func (c *collector) follow(t *testing.T) error {
	commits := c.find(agentTier, func(s told) bool {
		return s.GetName() == "journal.commit" && textOf(attribute(s.GetAttributes(), "cetrus.usage_events")) != "0"
	})
	if len(commits) == 0 {
		return fmt.Errorf("the agent tells of no commit with usage events")
	}
	var ended []string
	for _, commit := range commits {
		durable := c.find(managerTier, below(commit, "make durable"))
		if len(durable) == 0 {
			ended = append(ended, "no Manager has a span below "+commit.String())
			continue
		}
		forward := c.find(managerTier, below(durable[0], "forward"))
		if len(forward) == 0 {
			ended = append(ended, "nothing was forwarded below "+durable[0].String())
			continue
		}
		counted := c.find(platformTier, func(s told) bool {
			return strings.HasPrefix(s.GetName(), "project ") && linked(s, forward[0]) && linked(s, commit)
		})
		if len(counted) == 0 {
			ended = append(ended, "no projection is linked to "+forward[0].String()+" and "+commit.String())
			continue
		}
		t.Logf("%v → %v → %v → %v", commit, durable[0], forward[0], counted[0])
		if commit.GetStartTimeUnixNano() > durable[0].GetStartTimeUnixNano() || durable[0].GetStartTimeUnixNano() > forward[0].GetStartTimeUnixNano() ||
			forward[0].GetStartTimeUnixNano() > counted[0].GetEndTimeUnixNano() {
			return fmt.Errorf("the spans are not in the order of the data")
		}
		return nil
	}
	return fmt.Errorf("of %d commits none is followed to the end: %s", len(commits), strings.Join(ended, "; "))
}

// An id, however it is written, is a label without bound.
var idLike = regexp.MustCompile(`(?i)[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}|\b[0-9a-f]{16,}\b`)

// checkLabels fails where a metric could grow with the number of agents, people or
// instances, or tells what is nobody's business.
func (c *collector) checkLabels(t *testing.T, secrets ...string) {
	t.Helper()
	count := map[string]int{}
	for _, s := range c.metrics() {
		count[s.service+" "+s.metric]++
		if id := idLike.FindString(s.labels); id != "" {
			t.Errorf("%s of %s has an id among its labels: %s", s.metric, s.service, s.labels)
		}
		for _, secret := range secrets {
			if strings.Contains(s.labels, secret) {
				t.Errorf("%s of %s has %q among its labels: %s", s.metric, s.service, secret, s.labels)
			}
		}
	}
	for name, n := range count {
		if n > mostSeries {
			t.Errorf("%s has %d series", name, n)
		}
	}
	t.Logf("%d metrics", len(count))
}

func mustID(t *testing.T, text string) contract.ID {
	t.Helper()
	id, err := contract.ParseID(text)
	if err != nil {
		t.Fatal(err)
	}
	return id
}
