package recount

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/cetrus/cetrus/ctl/rest"
	meteringv1 "github.com/cetrus/cetrus/proto/cetrus/metering/v1"
	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/platform/natsserver"
	"github.com/cetrus/cetrus/tools/company"
	"github.com/cetrus/cetrus/tools/figure"
	"github.com/cetrus/cetrus/tools/stack"
)

const (
	// drillDays are those that have come before the backup begins; some of them are in the archive only.
	drillDays = 60
	// loadDays are those that may be sent while it is made.
	loadDays = 400
	// afterBackup are those that come in any case once the backup is made.
	afterBackup = 20
	// drillPeople work for the company.
	drillPeople = 30
)

// stored is a message of the stream.
type stored struct {
	position uint64
	manager  contract.ID
	frames   []*usagev1.ReceivedFrame
}

// drill is a restore drill.
type drill struct {
	*office

	cetrus, elsewhere, backups string
	archive                    []string // arguments
	sender                     *company.Sender

	mu  sync.Mutex
	log []stored
}

// TestRestoredReportsAreEqualByteByByte backs a platform up under load, and asks all its reports: of its own log, cut
// at the backup's position; and, when everything but the backup, the archive and the key is destroyed, of what is
// restored from these. Both answer alike byte by byte, and as the plain re-computation says.
func TestRestoredReportsAreEqualByteByByte(t *testing.T) {
	if os.Getenv("RESTORE_DRILL") == "" {
		t.Skip("it takes minutes: make restore-drill")
	}
	seed := number(t, "RECOUNT_SEED", uint64(time.Now().UnixNano()))
	questions := int(number(t, "RECOUNT_QUESTIONS", usualQuestions))
	t.Logf("RECOUNT_SEED=%d", seed)
	zone, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Fatal(err)
	}
	d := &drill{
		office:    &office{Questions: &Questions{Facts: New(zone)}, t: t, ctx: t.Context(), random: rand.New(rand.NewPCG(seed, 1)), answered: make(map[string]Answered)},
		elsewhere: t.TempDir(),
	}
	d.Begin = time.Now().UTC().Truncate(24*time.Hour).AddDate(0, 0, -drillDays-loadDays-afterwards)
	d.backups = "file://" + filepath.Join(d.elsewhere, "backups")
	d.archive = []string{"--archive-url=file://" + filepath.Join(d.elsewhere, "archive")}
	if d.cetrus, err = stack.Build(t.Context(), d.elsewhere, "services/cmd/cetrus"); err != nil {
		t.Fatal(err)
	}

	original := filepath.Join(d.elsewhere, "original")
	position, day := d.underLoad(original, zone)
	d.Days = day
	for _, m := range d.log {
		if m.position > position {
			continue
		}
		for _, frame := range m.frames {
			if err := d.Facts.Read(m.manager, frame); err != nil {
				t.Fatal(err)
			}
		}
	}
	d.frozen(original, position)
	asking := d.random.Uint64()
	d.start("the original, cut at the backup's position", original, func() { d.run("rebuild", "metering", "--data-dir", original) })
	before := d.askAll(asking, questions)
	d.stop()

	// Everything is destroyed but what an operator keeps elsewhere.
	restored := filepath.Join(d.elsewhere, "restored")
	for _, name := range []string{"archive-key", "api-key"} {
		content, err := os.ReadFile(filepath.Join(original, name))
		if err == nil {
			err = errors.Join(os.MkdirAll(restored, 0o700), os.WriteFile(filepath.Join(restored, name), content, 0o600))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := os.RemoveAll(original); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	d.run("restore", append([]string{"--data-dir", restored, "--from", d.backups, "--nats-listen=127.0.0.1:0"}, d.archive...)...)
	d.start("what was restored", restored, func() {})
	took := time.Since(began)
	after := d.askAll(asking, questions)
	d.stop()
	if len(before) != len(after) || len(before) < len(Names())*questions {
		t.Errorf("the original gave %d answers, what was restored %d", len(before), len(after))
	}
	different := 0
	for n := range min(len(before), len(after)) {
		if before[n].request != after[n].request {
			t.Fatalf("it was asked otherwise: %s, and then %s", before[n].request, after[n].request)
		}
		if !bytes.Equal(before[n].body, after[n].body) {
			different++
			t.Errorf("%s\nthe original: %s\nrestored:     %s", before[n].request, excerpt(before[n].body, after[n].body), excerpt(after[n].body, before[n].body))
		}
	}
	if err := figure.Append(filepath.Join("..", "..", "out", "restore-drill.jsonl"), figure.Line{Name: "restore_different_answers", Value: float64(different), Unit: "answers", More: map[string]any{
		"answers": len(before), "events": d.Facts.Events(), "position": position, "restored_seconds": took.Seconds(), "seed": seed,
	}}); err != nil {
		t.Error(err)
	}
	t.Logf("%d of %d answers differ at position %d of AGENT: %d events; restored and counted in %v", different, len(before), position, d.Facts.Events(), took.Round(time.Second))
}

// underLoad has a platform work, archive and be backed up while more comes, and stops it. It gives the position of
// the backup, and how many days were begun.
func (d *drill) underLoad(dir string, zone *time.Location) (position uint64, days int) {
	t := d.t
	t.Helper()
	archives := append([]string{"--archive-segment-megabytes=1", "--archive-segment-age=1s", "--archive-keep=1ms"}, d.archive...)
	d.begin(dir, archives...)
	if err := company.SetZone(d.ctx, d.platform.API, zone); err != nil {
		t.Fatal(err)
	}
	applications, err := company.Applications(d.ctx, d.platform.API, 12)
	if err != nil {
		t.Fatal(err)
	}
	d.Company = company.New(company.Config{Seed: 1, People: drillPeople, Days: drillDays + loadDays, Begin: d.Begin, Zone: zone, Applications: applications, Attendance: 35, Minutes: 60})
	d.connect()
	d.join()
	var quiet, last uint64
	loaded := 0
	var backup *exec.Cmd
	var said bytes.Buffer
	ended := make(chan error, 1)
	enough := errors.New("the backup is made")
	pace := time.NewTicker(10 * time.Millisecond)
	defer pace.Stop()
	err = d.Company.Days(func(day int, came []company.Delivery) error {
		days = day + 1
		if day < drillDays {
			return errors.Join(d.sender.Send(d.ctx, came), d.sender.Wait(d.ctx))
		}
		if day == drillDays {
			d.archived(d.logOf(dir))
			// What comes from now on stays in the log: the archive must not know more than the backup.
			d.sender.Close()
			d.stop()
			d.begin(dir, append([]string{"--archive-segment-megabytes=256", "--archive-segment-age=24h"}, d.archive...)...)
			quiet = d.sender.Position
			d.connect()
			backup = exec.CommandContext(d.ctx, d.cetrus, append([]string{"backup", "--data-dir", dir, "--to", d.backups}, d.archive...)...)
			backup.Stdout, backup.Stderr = &said, &said
		}
		for n := range came {
			<-pace.C
			if err := errors.Join(d.sender.Send(d.ctx, came[n:n+1]), d.sender.Wait(d.ctx)); err != nil {
				return err
			}
			if loaded++; loaded == 3 { // there is load, on whatever day
				if err := backup.Start(); err != nil {
					return err
				}
				go func() { ended <- backup.Wait() }()
			}
		}
		if last = d.sender.Position; position > 0 {
			return enough // and more has come since
		}
		more := make(chan struct{})
		if day < drillDays+loadDays-afterBackup {
			close(more) // more can come while it is made
		}
		select {
		case err := <-ended:
			match := regexp.MustCompile(`AGENT up to (\d+),`).FindStringSubmatch(said.String())
			if err != nil || match == nil {
				return fmt.Errorf("cetrus backup: %w: %s", err, said.String())
			}
			position, err = strconv.ParseUint(match[1], 10, 64)
			return err
		case <-more:
			return nil
		case <-d.ctx.Done():
			return d.ctx.Err()
		}
	})
	d.sender.Close()
	if !errors.Is(err, enough) {
		t.Fatalf("%d days were sent until the backup was made, which has said %q: %v", days, said.String(), err)
	}
	if position <= quiet || position >= last {
		t.Fatalf("the backup is at %d, and was not made while messages %d to %d came", position, quiet+1, last)
	}
	t.Logf("the backup is at %d of AGENT, made while messages %d to %d came", position, quiet+1, last)
	d.stop()
	return position, days
}

// connect has the company's Managers send to the platform.
func (d *drill) connect() {
	d.t.Helper()
	former := uint64(0)
	if d.sender != nil {
		former = d.sender.Position
	}
	var err error
	if d.sender, err = company.NewSender(d.ctx, d.Company, d.platform, d.cetrus); err != nil {
		d.t.Fatal(err)
	}
	d.sender.Position = max(d.sender.Position, former)
	d.sender.Stored = func(position uint64, manager contract.ID, frames []*usagev1.ReceivedFrame) {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.log = append(d.log, stored{position, manager, frames})
		slices.SortFunc(d.log, func(a, b stored) int { return cmp.Compare(a.position, b.position) })
	}
}

// archived waits until the beginning of the log is in the archive only.
func (d *drill) archived(log string) {
	d.t.Helper()
	if err := stack.Wait(d.ctx, 5*time.Minute, "the log's beginning to be in the archive only", func() error {
		said, err := os.ReadFile(log)
		if err == nil && !bytes.Contains(said, []byte("what is archived was taken out of the stream")) {
			err = errors.New("nothing has been taken out of the log")
		}
		return err
	}); err != nil {
		d.t.Fatal(err)
	}
}

// frozen cuts the log of a platform that was stopped behind a position.
func (d *drill) frozen(dir string, position uint64) {
	t := d.t
	t.Helper()
	operator := natsserver.PlatformUser(natsserver.NewPassword())
	server, err := natsserver.Start(d.ctx, natsserver.Config{StoreDir: filepath.Join(dir, "nats"), Users: []natsserver.User{operator}, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer server.Stop()
	nc, err := server.Connect(operator)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	stream, err := js.Stream(d.ctx, contract.AgentStream)
	if err != nil {
		t.Fatal(err)
	}
	if first := stream.CachedInfo().State.FirstSeq; first <= 1 {
		t.Fatalf("the log begins at %d: nothing of it is in the archive only", first)
	}
	for at := position + 1; at <= stream.CachedInfo().State.LastSeq; at++ {
		if err := stream.DeleteMsg(d.ctx, at); err != nil {
			t.Fatalf("cutting message %d off: %v", at, err)
		}
	}
}

// logOf is where the platform of a folder logs to.
func (d *drill) logOf(dir string) string {
	return filepath.Join(d.t.ArtifactDir(), filepath.Base(dir)+".log")
}

// begin starts `cetrus all`.
func (d *drill) begin(dir string, args ...string) {
	d.t.Helper()
	var err error
	if d.platform, err = stack.StartPlatform(d.ctx, d.cetrus, dir, d.logOf(dir), slices.Concat(stack.Anywhere().Listen(), []string{stack.Plaintext}, args)...); err != nil {
		d.t.Fatal(err)
	}
}

func (d *drill) stop() {
	d.t.Helper()
	if err := d.platform.Stop(30 * time.Second); err != nil {
		d.t.Fatal(err)
	}
}

// run runs an order of cetrus, and says what that has said.
func (d *drill) run(order string, args ...string) {
	d.t.Helper()
	out, err := exec.CommandContext(d.ctx, d.cetrus, append([]string{order}, args...)...).CombinedOutput()
	d.t.Logf("cetrus %s: %s", order, out)
	if err != nil {
		d.t.Fatal(err)
	}
}

// start starts a platform, has its tables built of its log, and waits until they are.
func (d *drill) start(what, dir string, build func()) {
	t := d.t
	t.Helper()
	d.begin(dir, append([]string{"--archive-segment-megabytes=256", "--archive-segment-age=24h"}, d.archive...)...)
	began := time.Now()
	build()
	if err := stack.Wait(d.ctx, 5*time.Minute, "everything to be counted", func() error {
		var quality meteringv1.GetDataQualityResponse
		if err := d.platform.API.Get(d.ctx, "/v1/usage:dataQuality", nil, &quality); err != nil {
			return err
		}
		if len(quality.GetQuarantined()) > 0 {
			return stack.Hopeless(fmt.Errorf("%v is set aside", quality.GetQuarantined()))
		}
		return equal("events", quality.GetEventsCounted(), int64(d.Facts.Events()))
	}); err != nil {
		t.Fatal(err)
	}
	t.Logf("%s has counted %d events after %v", what, d.Facts.Events(), time.Since(began).Round(time.Millisecond))
}

// answer is what REST answers.
type answer struct {
	request string
	body    []byte
}

// recorder keeps all answers.
type recorder struct{ answers []answer }

// positions are where in the log answers are of. The log that was cut still knows how far it went.
var positions = regexp.MustCompile(`("(?:position|as_of_position)":\s*")[0-9]+"`)

// RoundTrip implements http.RoundTripper.
func (r *recorder) RoundTrip(request *http.Request) (*http.Response, error) {
	var sent []byte
	if request.Body != nil {
		var err error
		if sent, err = io.ReadAll(request.Body); err != nil {
			return nil, err
		}
		request = request.Clone(request.Context())
		request.Body = io.NopCloser(bytes.NewReader(sent))
	}
	response, err := http.DefaultTransport.RoundTrip(request)
	if err != nil {
		return nil, err
	}
	body, err := io.ReadAll(response.Body)
	if err := errors.Join(err, response.Body.Close()); err != nil {
		return nil, err
	}
	response.Body = io.NopCloser(bytes.NewReader(body))
	r.answers = append(r.answers, answer{
		request: fmt.Sprintf("%s %s %s: %d", request.Method, request.URL.RequestURI(), sent, response.StatusCode),
		body:    positions.ReplaceAll(body, []byte(`${1}that of the backup"`)),
	})
	return response, nil
}

// askAll asks every report the same questions, and lists, over REST.
func (d *drill) askAll(seed uint64, questions int) []answer {
	t := d.t
	t.Helper()
	base, err := url.Parse(d.platform.REST)
	if err != nil {
		t.Fatal(err)
	}
	r := &recorder{}
	conn := rest.New(base, &http.Client{Transport: r}, "restore-drill", rest.Key(d.platform.Key))
	d.Usage, d.Reports = meteringv1.NewUsageServiceClient(conn), meteringv1.NewReportServiceClient(conn)
	random := rand.New(rand.NewPCG(seed, 3))
	for _, name := range Names() {
		for range questions {
			if _, err := d.Ask(d.ctx, name, random.Uint64()); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
	// Not the audit log: who asked what was just asked is in it.
	for _, path := range []string{
		"agents", "apiKeys", "applications", "corrections", "expenseToProject", "groups", "logins", "managers", "meteringSettings", "principals", "seenPrograms", "signInPolicy",
	} {
		response, err := conn.Do(context.WithoutCancel(d.ctx), rest.Request{Method: http.MethodGet, Path: "/v1/" + path})
		if err != nil {
			t.Errorf("%s: %v", path, err)
			continue
		}
		_ = response.Body.Close()
	}
	return r.answers
}

// excerpt is where an answer begins to differ from another.
func excerpt(of, from []byte) string {
	at := 0
	for at < len(of) && at < len(from) && of[at] == from[at] {
		at++
	}
	begin := max(0, at-200)
	return fmt.Sprintf("%d bytes, …%s…", len(of), strings.ReplaceAll(string(of[begin:min(len(of), at+200)]), "\n", " "))
}
