package main

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"google.golang.org/protobuf/proto"

	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/platform/agentlog/agentlogtest"
	"github.com/cetrus/cetrus/services/platform/archive"
	"github.com/cetrus/cetrus/services/platform/authn"
)

// sender is a Manager that forwards what one person does, and knows what the log holds of it.
type sender struct {
	account, manager contract.ID
	rnd              *rand.Rand
	journal          *agentlogtest.Journal
	person           *agentlogtest.Person

	mu   sync.Mutex
	sent map[uint64]*usagev1.UsageEvent // by position
}

func newSender(account contract.ID, seed uint64) *sender {
	rnd := rand.New(rand.NewPCG(seed, 64))
	return &sender{
		account: account, manager: agentlogtest.ID(rnd), rnd: rnd, sent: make(map[uint64]*usagev1.UsageEvent),
		journal: agentlogtest.NewJournal(rnd, time.Now().Add(-90*24*time.Hour).Truncate(time.Second)), person: agentlogtest.NewPerson(rnd, 0),
	}
}

// connect lets the Manager into a platform that runs.
func (s *sender) connect(t *testing.T, i *instance) jetstream.JetStream {
	t.Helper()
	user, _, err := addManager(i.dir, s.account, s.manager)
	if err != nil {
		t.Fatal(err)
	}
	running, err := addressesOf(i.dir, "all")
	if err != nil {
		t.Fatal(err)
	}
	for {
		nc, err := nats.Connect(running.NATS, user.Options()...)
		if err == nil {
			t.Cleanup(nc.Close)
			js, err := jetstream.New(nc)
			if err != nil {
				t.Fatal(err)
			}
			return js
		}
		if t.Context().Err() != nil {
			t.Fatal(err)
		}
		<-time.After(50 * time.Millisecond) // the server looks once a second who may connect
	}
}

func (s *sender) send(ctx context.Context, js jetstream.JetStream, n int) (last uint64, err error) {
	for range n {
		e := s.person.Next(s.rnd)
		s.journal.AppendUsage(e)
		seq := s.journal.Next() - 1
		principal := s.person.Alias
		frame := agentlogtest.Received(s.journal.Frame(seq, seq), &usagev1.PrincipalBinding{PrincipalAlias: s.person.Alias[:], PrincipalId: principal[:]})
		data, err := proto.Marshal(&usagev1.AgentBatch{AccountId: s.account[:], ManagerId: s.manager[:], Frames: []*usagev1.ReceivedFrame{frame}})
		if err != nil {
			return last, err
		}
		ack, err := js.PublishMsg(ctx, &nats.Msg{
			Subject: contract.AgentSubject(s.account, s.manager, usagev1.Lane_LANE_USAGE), Data: data,
			Header: nats.Header{contract.HeaderType: {contract.AgentBatchType}},
		})
		if err != nil {
			return last, err
		}
		last = ack.Sequence
		s.mu.Lock()
		s.sent[last] = e
		s.mu.Unlock()
	}
	return last, nil
}

// sums are milliseconds, and numbers of intervals, by attention.
type sums map[int]string

// truth adds up what was sent up to a position.
func (s *sender) truth(until uint64) sums {
	s.mu.Lock()
	defer s.mu.Unlock()
	millis, n := make(map[int]int64), make(map[int]int)
	for position, e := range s.sent {
		if c := e.GetClosed(); c != nil && position <= until {
			millis[int(c.GetAttention())] += c.GetToBootMillis() - c.GetFromBootMillis()
			n[int(c.GetAttention())]++
		}
	}
	all := make(sums)
	for attention := range n {
		all[attention] = fmt.Sprintf("%d ms in %d", millis[attention], n[attention])
	}
	return all
}

// counted adds up what metering's present tables hold, once they are level with a position.
func (i *instance) counted(t *testing.T, position uint64) sums {
	t.Helper()
	for {
		code, quality := i.do("GET", "/v1/usage:dataQuality", "", i.key)
		at, _ := strconv.ParseUint(fmt.Sprint(quality["position"]), 10, 64)
		if code == 200 && at >= position {
			break
		}
		if t.Context().Err() != nil {
			t.Fatalf("counted up to %d, waiting for %d: %d %v", at, position, code, quality)
		}
		<-time.After(50 * time.Millisecond)
	}
	running, err := addressesOf(i.dir, "all")
	if err != nil {
		t.Fatal(err)
	}
	conn, err := pgx.Connect(t.Context(), running.PostgresURL)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.WithoutCancel(t.Context()))
	var schema string
	if err := conn.QueryRow(t.Context(), "SELECT schema FROM cetrus.active WHERE service = 'metering'").Scan(&schema); err != nil {
		t.Fatal(err)
	}
	rows, err := conn.Query(t.Context(), "SELECT attention, sum(to_ms - from_ms)::bigint, count(*) FROM "+pgx.Identifier{schema, "interval"}.Sanitize()+" GROUP BY attention")
	if err != nil {
		t.Fatal(err)
	}
	all := make(sums)
	var attention, n int
	var millis int64
	if _, err := pgx.ForEachRow(rows, []any{&attention, &millis, &n}, func() error {
		all[attention] = fmt.Sprintf("%d ms in %d", millis, n)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return all
}

func ordered(t *testing.T, args ...string) string {
	t.Helper()
	var out, problems bytes.Buffer
	if code := run(args, &out, &problems); code != 0 {
		t.Fatalf("cetrus %s: %d, %s%s", strings.Join(args, " "), code, out.String(), problems.String())
	}
	return out.String()
}

// TestRestoreDrill: under load a backup is made, everything is destroyed but the archive, the backup
// and the key, and what is restored from them counts what the log held at the backup's position.
func TestRestoreDrill(t *testing.T) {
	elsewhere, dir, next := t.TempDir(), testDir(t), testDir(t)
	archived := []string{"--archive-url", "file://" + filepath.Join(elsewhere, "archive"), "--archive-segment-age", "300ms", "--archive-keep", "1ms"}
	backups := "file://" + filepath.Join(elsewhere, "backups")
	first := startAll(t, dir, archived...)
	code, made := first.do("POST", "/v1/applications", `{"display_name":"Editor","rules":[{"executable":"xed"}]}`, first.key)
	if code != 200 {
		t.Fatalf("%d %v", code, made)
	}
	keys, err := authn.Load(filepath.Join(dir, authn.AccountFile))
	if err != nil {
		t.Fatal(err)
	}
	seed := uint64(time.Now().UnixNano())
	t.Log("seed", seed)
	s := newSender(keys.Account(), seed)
	js := s.connect(t, first)
	if _, err := s.send(t.Context(), js, 200); err != nil {
		t.Fatal(err)
	}
	begins := func(i *instance) uint64 {
		t.Helper()
		var set settings
		set.dataDir = i.dir
		nc, err := set.connectToRunning(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer nc.Close()
		js, err := jetstream.New(nc)
		if err != nil {
			t.Fatal(err)
		}
		stream, err := js.Stream(t.Context(), contract.AgentStream)
		if err != nil {
			t.Fatal(err)
		}
		return stream.CachedInfo().State.FirstSeq
	}
	for begins(first) < 50 { // the rest of the drill finds those in the archive only
		if _, err := s.send(t.Context(), js, 1); err != nil {
			t.Fatal(err)
		}
		<-time.After(20 * time.Millisecond)
	}
	loading, enough := context.WithCancel(t.Context())
	var load sync.WaitGroup
	load.Go(func() {
		for loading.Err() == nil {
			if _, err := s.send(t.Context(), js, 1); err != nil {
				t.Error(err)
				return
			}
		}
	})
	said := ordered(t, append([]string{"backup", "--data-dir", dir, "--to", backups}, archived...)...)
	if without := ordered(t, "backup", "--data-dir", dir, "--to", "file://"+filepath.Join(elsewhere, "others"), "--sign-in-key-file", filepath.Join(elsewhere, "none")); !strings.Contains(without, "The file sign-in-key is not in it") || strings.Contains(said, "is not in it") {
		t.Errorf("a file of keys that is not here: %s", without)
	}
	match := regexp.MustCompile(`AGENT up to (\d+),`).FindStringSubmatch(said)
	if match == nil {
		t.Fatal(said)
	}
	position, err := strconv.ParseUint(match[1], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	for begins(first) <= position+1 { // more is archived than the backup knows of
		<-time.After(20 * time.Millisecond)
	}
	enough()
	load.Wait()
	last, err := s.send(t.Context(), js, 1)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(s.truth(last), first.counted(t, last)); diff != "" {
		t.Fatalf("before anything is destroyed: %s", diff)
	}
	key := first.key
	first.stop()
	for _, name := range []string{archive.KeyFile, authn.KeyFile} { // what the operator keeps elsewhere
		content, err := os.ReadFile(filepath.Join(dir, name))
		if err == nil {
			err = os.WriteFile(filepath.Join(next, name), content, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	t.Logf("the backup is at %d, the log ended at %d", position, last)

	// Managers know the address of the log: while it is put back, nothing answers there.
	taken, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	restore := []string{"restore", "--data-dir", next, "--from", backups, "--nats-listen", taken.Addr().String(), "--log-level", "error"}
	// That the archive is another is told while nothing is put back yet: the folder is as it was.
	var unlike bytes.Buffer
	if code := run(append(restore[:len(restore):len(restore)], "--archive-url", "file://"+filepath.Join(elsewhere, "another")), &bytes.Buffer{}, &unlike); code != 1 || !strings.Contains(unlike.String(), "is it the archive of the backup?") {
		t.Errorf("restoring with another archive: %d, %s", code, unlike.String())
	}
	restore = append(restore, archived...)
	t.Log(ordered(t, restore...))
	given := filepath.Join(elsewhere, "given")
	ordered(t, "restore", "--data-dir", filepath.Join(elsewhere, "nothing"), "--archive-key-file", filepath.Join(next, archive.KeyFile), "--from", backups, "--key-files-to", given)
	for _, name := range []string{authn.AccountFile, managersFile, nameKeyFile, signInKeyFile} {
		was, err := os.ReadFile(filepath.Join(given, name))
		if is, readErr := os.ReadFile(filepath.Join(next, name)); err != nil || readErr != nil || !bytes.Equal(was, is) {
			t.Errorf("the backup's %s: %v %v", name, err, readErr)
		}
	}
	var problems bytes.Buffer
	if code := run(restore, &bytes.Buffer{}, &problems); code != 1 || !strings.Contains(problems.String(), "empty data directory") {
		t.Errorf("restoring once more: %d, %s", code, problems.String())
	}
	second := startAll(t, next, archived...)
	if diff := cmp.Diff(s.truth(position), second.counted(t, position)); diff != "" {
		t.Errorf("the truth at %d is not what is counted: %s", position, diff)
	}
	code, answer := second.do("GET", "/v1/applications", "", key)
	if list, _ := answer["applications"].([]any); code != 200 || len(list) != 1 || list[0].(map[string]any)["application_id"] != made["application_id"] {
		t.Errorf("what was decided: %d %v", code, answer)
	}
	// Life goes on, also in the archive: what it held beyond the backup is forgotten.
	for at := range s.sent {
		if at > position {
			delete(s.sent, at)
		}
	}
	again := newSender(s.account, seed+1)
	js = again.connect(t, second)
	if last, err = again.send(t.Context(), js, 100); err != nil {
		t.Fatal(err)
	}
	for begins(second) <= position {
		if last, err = again.send(t.Context(), js, 1); err != nil {
			t.Fatal(err)
		}
		<-time.After(20 * time.Millisecond)
	}
	before := second.counted(t, last)
	ordered(t, "rebuild", "metering", "--data-dir", next)
	if diff := cmp.Diff(before, second.counted(t, last)); diff != "" {
		t.Errorf("built anew from both archives: %s", diff)
	}
	checked := ordered(t, append([]string{"verify", "--data-dir", next}, archived...)...)
	if strings.Contains(checked, "DIFFERS") || !strings.Contains(checked, "table interval") || !regexp.MustCompile(`EVENTS: [1-9]\d* messages were read, (?s:.*)archive: [1-9]\d* messages were read, 1 to \d+;`).MatchString(checked) {
		t.Error(checked)
	}
	// What somebody has changed is named.
	segments, err := filepath.Glob(filepath.Join(elsewhere, "archive", contract.AgentStream, "*", "*", "*.segment"))
	if err != nil || len(segments) < 2 {
		t.Fatalf("%q %v", segments, err)
	}
	content, err := os.ReadFile(segments[0])
	if err != nil {
		t.Fatal(err)
	}
	content[len(content)/2] ^= 1
	if err := os.WriteFile(segments[0], content, 0o600); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if code := run(append([]string{"verify", "--data-dir", next}, archived...), &out, &problems); code != 1 || !strings.Contains(out.String(), "DIFFERS: archive: ") || !strings.Contains(out.String(), filepath.Base(segments[0])) {
		t.Errorf("a changed segment: %d, %s", code, out.String())
	}
	second.stop()
}
