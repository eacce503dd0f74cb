package contexts

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	identityv1 "github.com/cetrus/cetrus/proto/cetrus/identity/v1"
)

// refresher gives a new pair of tokens for each refresh token, once, as the platform does.
type refresher struct {
	identityv1.SignInServiceClient
	now time.Time

	mu    sync.Mutex
	good  string
	given int
	down  bool
}

func (r *refresher) RefreshSession(_ context.Context, in *identityv1.RefreshSessionRequest, _ ...grpc.CallOption) (*identityv1.RefreshSessionResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.down {
		return nil, status.Error(codes.Unavailable, "down")
	}
	if in.GetRefreshToken() != r.good {
		return nil, status.Error(codes.Unauthenticated, "this session has ended")
	}
	r.given++
	r.good = fmt.Sprint("refresh", r.given)
	return &identityv1.RefreshSessionResponse{Tokens: &identityv1.Tokens{
		AccessToken: fmt.Sprint("access", r.given), AccessTokenExpireTime: timestamppb.New(r.now.Add(10 * time.Minute)),
		RefreshToken: r.good, RefreshTokenExpireTime: timestamppb.New(r.now.Add(time.Hour)),
	}}, nil
}

func kept(t *testing.T, now time.Time) (*File, *Context) {
	t.Helper()
	file := Open(filepath.Join(t.TempDir(), "sub", "c.yaml"))
	c := &Context{Name: "work", Server: "https://x", Session: &Session{AccessToken: "access0", AccessUntil: now.Add(time.Second), RefreshToken: "refresh0", RefreshUntil: now.Add(time.Hour)}}
	if err := file.Update(t.Context(), func(s *State) error { s.Put(c); s.Current = "work"; return nil }); err != nil {
		t.Fatal(err)
	}
	return file, c
}

// TestManyProcessesRefreshOnce: each refresh token is used once, whoever needs it at the same moment.
func TestManyProcessesRefreshOnce(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	file, c := kept(t, now)
	server := &refresher{now: now, good: "refresh0"}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			// Each its own file and copy, as processes have.
			credentials := CredentialsOf(Open(file.Path()), &Context{Name: c.Name, Session: c.Session}, server, func() time.Time { return now })
			if got, err := credentials.Bearer(t.Context()); err != nil || got != "access1" {
				t.Errorf("%q, %v", got, err)
			}
		})
	}
	wg.Wait()
	if server.given != 1 {
		t.Errorf("%d refreshes", server.given)
	}
}

func TestSessionsThatEndAreForgotten(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	file, c := kept(t, now)
	server := &refresher{now: now, good: "other", down: true}
	credentials := CredentialsOf(file, c, server, func() time.Time { return now })
	if _, err := credentials.Bearer(t.Context()); status.Code(err) != codes.Unavailable {
		t.Errorf("a platform that is down ends no session: %v", err)
	}
	server.down = false
	var out *SignedOutError
	if _, err := credentials.Bearer(t.Context()); !errors.As(err, &out) || !strings.Contains(err.Error(), "cetrusctl login") {
		t.Errorf("%v", err)
	}
	state, err := file.Read()
	if err != nil || state.Context("work").Session != nil {
		t.Errorf("%+v, %v", state, err)
	}
}

func TestTheFileIsItsOwnersAlone(t *testing.T) {
	now := time.Now()
	file, _ := kept(t, now)
	if runtime.GOOS == "windows" {
		t.Skip("rights are those of the profile there")
	}
	info, err := os.Stat(file.Path())
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
	if err := os.Chmod(file.Path(), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := file.Read(); err == nil || !strings.Contains(err.Error(), "chmod 600") {
		t.Errorf("a file that others can read: %v", err)
	}
}

func TestAFailedChangeWritesNothing(t *testing.T) {
	file, _ := kept(t, time.Now())
	before, err := os.ReadFile(file.Path())
	if err != nil {
		t.Fatal(err)
	}
	if err := file.Update(t.Context(), func(s *State) error { s.Remove("work"); return errors.New("no") }); err == nil {
		t.Error("the error is lost")
	}
	after, err := os.ReadFile(file.Path())
	if err != nil || string(after) != string(before) {
		t.Errorf("%v:\n%s", err, after)
	}
	left, err := filepath.Glob(filepath.Join(filepath.Dir(file.Path()), ".cetrusctl-*"))
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// FuzzRead: whatever is in the file is read or refused.
func FuzzRead(f *testing.F) {
	f.Add("current: a\ncontexts: [{name: a, server: https://x, session: {access_until: 2026-01-01T00:00:00Z}}]")
	f.Add("contexts: [null]")
	f.Fuzz(func(t *testing.T, text string) {
		path := filepath.Join(t.TempDir(), "c")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if state, err := Open(path).Read(); err == nil && state == nil {
			t.Error("neither")
		}
	})
}
