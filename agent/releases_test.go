package agent

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cetrus/cetrus/agent/desktop/scripted"
	"github.com/cetrus/cetrus/agent/release"
	agentv1 "github.com/cetrus/cetrus/proto/cetrus/agent/v1"
	signing "github.com/cetrus/cetrus/proto/release"
)

// A download goes on where it was cut, and what a Manager makes up is not taken.
func TestFetchingARelease(t *testing.T) {
	t.Parallel()
	public, private, err := signing.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	trust := release.Config{Keys: signing.Keys{"vendor": public}, Installed: 1, System: "linux", Architecture: "amd64"}
	desk := scripted.New(scripted.Config{Begin: time.Unix(1_700_000_000, 0)})
	t.Cleanup(desk.Close)
	a, err := New(Config{
		DataDir: t.TempDir(), Managers: []string{"127.0.0.1:1"}, ControlSocket: NoControl,
		Releases: &ReleasesConfig{Dir: filepath.Join(t.TempDir(), "releases"), Trust: trust, BytesPerSecond: 1 << 30},
	}, Deps{Desktop: desk})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(a.Close)
	program := bytes.Repeat([]byte("a program "), 50_000)
	sum := sha256.Sum256(program)
	m := signing.Manifest{
		Name: signing.AgentName, Version: "2", Number: 2, System: "linux", Architecture: "amd64",
		Size: int64(len(program)), SHA256: hex.EncodeToString(sum[:]),
	}
	signed, err := signing.Sign(m, "vendor", private)
	if err != nil {
		t.Fatal(err)
	}
	// give serves some bytes, as far as most of them.
	asked := uint64(0)
	give := func(text []byte) func(context.Context, []byte, uint64, uint32) ([]byte, error) {
		asked = 1 << 40
		return func(_ context.Context, _ []byte, offset uint64, most uint32) ([]byte, error) {
			asked = min(asked, offset)
			if offset >= uint64(len(text)) {
				return nil, nil
			}
			return text[offset:min(uint64(len(text)), offset+uint64(most))], nil
		}
	}
	r, ctx := a.releasing, t.Context()
	forged := bytes.Clone(program)
	forged[len(forged)-1] ^= 1
	if err := r.fetch(ctx, signed, m, give(forged)); !errors.As(err, new(*signing.RefusedError)) {
		t.Errorf("a forged program: %v", err)
	}
	if err := r.fetch(ctx, signed, m, give(program[:200_000])); err == nil || !strings.Contains(err.Error(), "200000") {
		t.Errorf("a truncated program: %v", err)
	}
	cut := errors.New("the connection is cut")
	if err := r.fetch(ctx, signed, m, func(_ context.Context, _ []byte, offset uint64, _ uint32) ([]byte, error) {
		if offset == 200_000 {
			return program[200_000:300_000], nil
		}
		return nil, cut
	}); !errors.Is(err, cut) {
		t.Errorf("%v", err)
	}
	offer := &agentv1.ReleaseOffer{Manifest: signed.Manifest, KeyId: signed.KeyID, Signature: signed.Ed25519}
	if r.switching() {
		t.Error("the agent stops for nothing")
	}
	r.take(ctx, offer, give(program))
	if asked != 300_000 || !r.switching() {
		t.Errorf("it was fetched again from %d; the agent stops for it: %t", asked, r.switching())
	}
	disk, err := release.Dir(r.config.Dir)
	if err != nil {
		t.Fatal(err)
	}
	store, trouble, err := release.Open(trust, disk)
	if err != nil || trouble != nil {
		t.Fatal(trouble, err)
	}
	plan, err := store.Next()
	if err != nil || !plan.Trial {
		t.Fatalf("%+v, %v", plan, err)
	}
	staged, err := disk.Open(m.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	defer staged.Close()
	if got, err := io.ReadAll(staged); err != nil || !bytes.Equal(got, program) {
		t.Fatalf("%d bytes are staged: %v", len(got), err)
	}
	if said := r.said(); said.GetState() != agentv1.ReleaseState_RELEASE_STATE_STAGED || said.GetTarget() != 2 || said.GetNumber() != 1 {
		t.Errorf("%v", said)
	}
}

// A Manager that anybody made up is not believed, and said so.
func TestOffersThatAreRefused(t *testing.T) {
	t.Parallel()
	public, private, err := signing.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	desk := scripted.New(scripted.Config{Begin: time.Unix(1_700_000_000, 0)})
	t.Cleanup(desk.Close)
	a, err := New(Config{
		DataDir: t.TempDir(), Managers: []string{"127.0.0.1:1"}, ControlSocket: NoControl,
		Releases: &ReleasesConfig{Dir: t.TempDir(), Trust: release.Config{Keys: signing.Keys{"vendor": public}, Installed: 7, System: "linux", Architecture: "amd64"}},
	}, Deps{Desktop: desk})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(a.Close)
	for name, c := range map[string]struct {
		keyID  string
		number uint64
		system string
	}{"wrong key": {"stranger", 8, "linux"}, "downgrade": {"vendor", 6, "linux"}, "other system": {"vendor", 8, "windows"}} {
		signed, err := signing.Sign(signing.Manifest{
			Name: signing.AgentName, Version: "x", Number: c.number, System: c.system, Architecture: "amd64", Size: 1, SHA256: strings.Repeat("00", 32),
		}, c.keyID, private)
		if err != nil {
			t.Fatal(err)
		}
		a.releasing.take(t.Context(), &agentv1.ReleaseOffer{Manifest: signed.Manifest, KeyId: signed.KeyID, Signature: signed.Ed25519},
			func(context.Context, []byte, uint64, uint32) ([]byte, error) {
				t.Errorf("%s: it is fetched", name)
				return nil, nil
			})
		if said := a.releasing.said(); said.GetState() != agentv1.ReleaseState_RELEASE_STATE_REFUSED || said.GetMessage() == "" {
			t.Errorf("%s: %v", name, said)
		}
	}
}
