package audit

import (
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	authzv1 "github.com/cetrus/cetrus/proto/cetrus/authz/v1"
	identityv1 "github.com/cetrus/cetrus/proto/cetrus/identity/v1"
	meteringv1 "github.com/cetrus/cetrus/proto/cetrus/metering/v1"
	policyv1 "github.com/cetrus/cetrus/proto/cetrus/policy/v1"
	"github.com/cetrus/cetrus/proto/contract"
)

var update = flag.Bool("update", false, "write the golden file anew")

// histories are events of one aggregate each.
func histories() map[string][]proto.Message {
	id := func(b byte) []byte { return append(make([]byte, 15), b) }
	privilege := func(p ...authzv1.Privilege) proto.Message { return &identityv1.LoginPrivilegesChanged{Privileges: p} }
	return map[string][]proto.Message{
		"login": {
			&identityv1.LoginCreated{LoginId: id(1), SealedName: []byte("Ada"), NameId: id(9)},
			&identityv1.LoginDescribed{SealedDisplayName: []byte("Ada Obi")},
			privilege(authzv1.Privilege_PRIVILEGE_REPORT),
			privilege(authzv1.Privilege_PRIVILEGE_REPORT, authzv1.Privilege_PRIVILEGE_FINANCIAL),
			privilege(),
			&identityv1.LoginDisabled{},
			&identityv1.LoginGroupsChanged{GroupIds: [][]byte{id(3), id(4)}},
			&identityv1.LoginGroupsChanged{GroupIds: [][]byte{id(4)}},
		},
		"apikey": {
			&identityv1.ApiKeyCreated{
				ApiKeyId: id(1), LoginId: id(2), Sha256: []byte("a hash that nobody is to see"), Prefix: "3f9a", ExpireTime: timestamppb.New(time.Unix(1e9, 0)),
				SealedDisplayName: []byte("nightly"), Privileges: []authzv1.Privilege{authzv1.Privilege_PRIVILEGE_REPORT},
			},
			&identityv1.ApiKeyRevoked{},
		},
		"account": {
			&identityv1.AdministratorAdded{LoginId: id(1)},
			&identityv1.AdministratorAdded{LoginId: id(2)},
			&identityv1.AdministratorRemoved{LoginId: id(1)},
		},
		"application": {
			&meteringv1.ApplicationDefined{ApplicationId: id(1), DisplayName: "Editor", Timeout: durationpb.New(30 * time.Minute), Rules: []*policyv1.Rule{{}}},
			&meteringv1.ApplicationDefined{ApplicationId: id(2), DisplayName: "Viewer", Timeout: durationpb.New(30 * time.Minute)},
			&meteringv1.ApplicationDefined{ApplicationId: id(1), DisplayName: "Editor", Timeout: durationpb.New(45 * time.Minute)},
			&meteringv1.ApplicationDeleted{ApplicationId: id(1)},
		},
		"group": {
			&identityv1.GroupDefined{GroupId: id(1), DisplayName: "Analysts", NameId: id(2)},
			&identityv1.GroupDefined{GroupId: id(1), DisplayName: "Analytics", NameId: id(3)},
		},
		"provider": {
			&identityv1.IdentityProviderChanged{Enabled: true, Issuer: "https://a.example.com", ClientId: "cetrus"},
			&identityv1.IdentityProviderChanged{Enabled: true, Issuer: "https://b.example.com", ClientId: "cetrus-2", SecretId: id(4)},
		},
		"view": {
			&meteringv1.NamedUseViewed{Method: "SummarizeUsage", PrincipalIds: [][]byte{id(7)}, SealedReason: []byte("a complaint"), KeyId: id(8)},
		},
	}
}

// What entries show of events, written down: before, after, and nothing that is sealed or secret.
func TestChangesGolden(t *testing.T) {
	got := map[string][][]change{}
	for name, events := range histories() {
		so := said{}
		for _, e := range events {
			list, err := so.changes(e, contract.ID{15: 1}.String())
			if err != nil {
				t.Fatal(err)
			}
			got[name] = append(got[name], list)
		}
	}
	text, err := json.MarshalIndent(got, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	for _, never := range []string{"Ada", "nightly", "a hash", "YSBoYXNo", "complaint"} {
		if strings.Contains(string(text), never) {
			t.Errorf("%q is shown", never)
		}
	}
	file := filepath.Join("testdata", "changes.json")
	if *update {
		if err := os.WriteFile(file, append(text, '\n'), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(text)+"\n"); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
}

// A text that is too long is told by its length, and a cell of a document begins no formula.
func TestBounds(t *testing.T) {
	list, err := said{}.changes(&meteringv1.ApplicationDefined{DisplayName: strings.Repeat("x", 2*maxValue)}, "")
	if err != nil || len(list) != 1 || len(list[0].After) > 100 {
		t.Errorf("%v %v", list, err)
	}
	document, err := csvDocument([]*identityv1.AuditEntry{{UserAgent: "=cmd|' /C calc'!A0", Actor: "login:1", Changes: []*identityv1.FieldChange{{Field: "a", Before: "1", After: `"x,y"`}}}})
	if err != nil || !strings.Contains(document, ",'=cmd") || !strings.Contains(document, `"a: 1 → ""x,y"""`) {
		t.Errorf("%s %v", document, err)
	}
}
