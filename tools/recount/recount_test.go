package recount

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"

	meteringv1 "github.com/cetrus/cetrus/proto/cetrus/metering/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/tools/company"
	"github.com/cetrus/cetrus/tools/stack"
)

const (
	people = 60
	days   = 400
	// afterwards is for how long after the last day something may come that is late.
	afterwards = 50
	// usualQuestions are asked of each report once everything has come; a third as many before.
	usualQuestions = 6
)

// office is a company on a platform, and what is asked about it.
type office struct {
	*Questions
	t        *testing.T
	ctx      context.Context
	platform *stack.Platform
	random   *rand.Rand
	// answered is how long answers took, by report.
	answered map[string]Answered
}

// number is a setting of the environment.
func number(t *testing.T, name string, usual uint64) uint64 {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return usual
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return n
}

// TestEveryReportEqualsThePlainRecount asks all reports about 60 people and 400 days, at random: while late data is
// on its way, when it has come, and when people were merged and forgotten.
func TestEveryReportEqualsThePlainRecount(t *testing.T) {
	seed := number(t, "RECOUNT_SEED", uint64(time.Now().UnixNano()))
	questions := int(number(t, "RECOUNT_QUESTIONS", usualQuestions))
	t.Logf("RECOUNT_SEED=%d", seed)
	zone, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Fatal(err)
	}
	o := &office{Questions: &Questions{Facts: New(zone), Days: days}, t: t, random: rand.New(rand.NewPCG(seed, 1)), answered: make(map[string]Answered)}
	o.Begin = time.Now().UTC().Truncate(24*time.Hour).AddDate(0, 0, -days-afterwards)
	cetrus := o.start(zone)
	sender, err := company.NewSender(o.ctx, o.Company, o.platform, cetrus)
	if err != nil {
		t.Fatal(err)
	}
	defer sender.Close()
	o.counted(sender)
	o.join()
	began := time.Now()
	err = o.Company.Days(func(day int, came []company.Delivery) error {
		if day == days {
			t.Logf("%d events are sent after %v", sender.Events, time.Since(began))
			o.counted(sender)
			t.Logf("and counted after %v", time.Since(began))
			o.ask("late data is on its way", max(1, questions/3))
		}
		for _, d := range came {
			if err := o.Facts.Read(d.Manager, d.Frame); err != nil {
				return err
			}
		}
		return sender.Send(o.ctx, came)
	})
	if err != nil {
		t.Fatal(err)
	}
	o.counted(sender)
	o.ask("all has come", max(1, questions/3))
	o.change()
	o.ask("people were merged and forgotten", questions)
	for name, took := range o.answered {
		t.Logf("%s: %v, in plain %v: %.0f times", name, took.Platform, took.Plain, took.Plain.Seconds()/took.Platform.Seconds())
	}
}

// start starts a platform with the company's applications, and gives the program's path.
func (o *office) start(zone *time.Location) string {
	t := o.t
	t.Helper()
	dir := t.TempDir()
	binary, err := stack.Build(t.Context(), dir, "services/cmd/cetrus")
	if err != nil {
		t.Fatal(err)
	}
	o.platform, err = stack.StartPlatform(t.Context(), binary, filepath.Join(dir, "platform"), filepath.Join(t.ArtifactDir(), "cetrus.log"), append(stack.Anywhere().Listen(), stack.Plaintext)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := o.platform.Stop(30 * time.Second); err != nil {
			t.Error(err)
		}
	})
	conn, err := grpc.NewClient(o.platform.GRPC, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(256<<20)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	o.Usage, o.Reports = meteringv1.NewUsageServiceClient(conn), meteringv1.NewReportServiceClient(conn)
	o.ctx = metadata.AppendToOutgoingContext(t.Context(), "authorization", "Bearer "+o.platform.Key)
	if err := company.SetZone(o.ctx, o.platform.API, zone); err != nil {
		t.Fatal(err)
	}
	applications, err := company.Applications(o.ctx, o.platform.API, 12)
	if err != nil {
		t.Fatal(err)
	}
	o.Company = company.New(company.Config{Seed: 1, People: people, Days: days, Begin: o.Begin, Zone: zone, Applications: applications, Attendance: 35, Minutes: 60})
	return binary
}

// join gives everybody a login and groups.
func (o *office) join() {
	t := o.t
	t.Helper()
	groups, err := o.Company.Join(o.ctx, o.platform.API)
	if err != nil {
		t.Fatal(err)
	}
	o.Facts.Groups = groups
	for _, in := range groups {
		for _, id := range in {
			if !slices.Contains(o.Groups, id) {
				o.Groups = append(o.Groups, id)
			}
		}
	}
	slices.SortFunc(o.Groups, func(a, b contract.ID) int { return slices.Compare(a[:], b[:]) })
}

// counted waits until everything that was sent is in the reports.
func (o *office) counted(sender *company.Sender) {
	o.t.Helper()
	if err := sender.Wait(o.ctx); err != nil {
		o.t.Fatal(err)
	}
	if err := stack.Wait(o.ctx, 3*time.Minute, "everything to be counted", func() error {
		quality, err := o.Usage.GetDataQuality(o.ctx, &meteringv1.GetDataQualityRequest{})
		switch {
		case err != nil:
			return err
		case len(quality.GetQuarantined()) > 0:
			return stack.Hopeless(fmt.Errorf("%v is set aside", quality.GetQuarantined()))
		case quality.GetPosition() < sender.Position:
			return fmt.Errorf("%d of %d messages are", quality.GetPosition(), sender.Position)
		case quality.GetEventsCounted() != int64(o.Facts.Events()):
			return fmt.Errorf("%d of %d events are", quality.GetEventsCounted(), o.Facts.Events())
		}
		return nil
	}); err != nil {
		o.t.Fatal(err)
	}
}

// change merges whom two Managers know as two, and forgets some, of whom one was merged.
func (o *office) change() {
	t := o.t
	t.Helper()
	forgotten := o.Company.Principals()[1:4]
	for other, into := range o.Company.Others() {
		request := &meteringv1.MergePrincipalRequest{IntoPrincipalId: into.String()}
		if err := o.platform.API.Post(o.ctx, "/v1/principals/"+other.String()+":merge", request, &meteringv1.Principal{}); err != nil {
			t.Fatal(err)
		}
		o.Facts.Merged[other] = into
	}
	for _, id := range forgotten {
		if err := o.platform.API.Post(o.ctx, "/v1/principals/"+id.String()+":forget", &meteringv1.ForgetPrincipalRequest{}, &meteringv1.Principal{}); err != nil {
			t.Fatal(err)
		}
		delete(o.Facts.Groups, id) // they have no login any more
	}
	if err := stack.Wait(o.ctx, time.Minute, "the decisions to be followed", func() error {
		var answer meteringv1.ListPrincipalsResponse
		if err := o.platform.API.Get(o.ctx, "/v1/principals", map[string][]string{"page_size": {"1000"}}, &answer); err != nil {
			return err
		}
		merged, gone := 0, 0
		for _, principal := range answer.GetPrincipals() {
			if principal.GetMergedIntoId() != "" {
				merged++
			}
			if principal.GetForgetTime() != nil {
				gone++
			}
		}
		if merged < len(o.Facts.Merged) || gone < len(forgotten) {
			return fmt.Errorf("%d are merged and %d forgotten", merged, gone)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

// ask asks so many questions of each report.
func (o *office) ask(when string, questions int) {
	began := time.Now()
	for _, name := range Names() {
		o.t.Run(when+"/"+name, func(t *testing.T) {
			for range questions {
				took, err := o.Ask(o.ctx, name, o.random.Uint64())
				if err != nil {
					t.Fatalf("%v", err)
				}
				sum := o.answered[name]
				o.answered[name] = Answered{sum.Platform + took.Platform, sum.Plain + took.Plain}
			}
		})
	}
	o.t.Logf("%s: asked within %v", when, time.Since(began))
}
