package metering

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
	"google.golang.org/protobuf/proto"

	meteringv1 "github.com/cetrus/cetrus/proto/cetrus/metering/v1"
	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
	"github.com/cetrus/cetrus/proto/contract"
)

// nameSet is what is to be named in one answer, and then the names. What has none
// stays empty.
type nameSet struct {
	applications, principals, machines, documents map[contract.ID]string
	groups, sites                                 map[contract.ID]string
	// remoteClients are the applications that are some.
	remoteClients map[contract.ID]bool
}

func newNameSet() *nameSet {
	return &nameSet{
		applications: make(map[contract.ID]string), principals: make(map[contract.ID]string),
		machines: make(map[contract.ID]string), documents: make(map[contract.ID]string),
		groups: make(map[contract.ID]string), sites: make(map[contract.ID]string),
		remoteClients: make(map[contract.ID]bool),
	}
}

// want asks for the names of ids that are not zero.
func (n *nameSet) want(application, principal, machine, document contract.ID) {
	for names, id := range map[*map[contract.ID]string]contract.ID{
		&n.applications: application, &n.principals: principal, &n.machines: machine, &n.documents: document,
	} {
		if _, there := (*names)[id]; !there && !id.IsZero() {
			(*names)[id] = ""
		}
	}
}

// wantPlace asks for the names of a group and a site, where they are some.
func (n *nameSet) wantPlace(group, site contract.ID) {
	if !group.IsZero() {
		n.groups[group] = ""
	}
	if !site.IsZero() {
		n.sites[site] = ""
	}
}

func ids(names map[contract.ID]string) [][16]byte {
	out := make([][16]byte, 0, len(names))
	for id := range names {
		out = append(out, id)
	}
	return out
}

// read reads the names that stand in tables, in one turn, and returns the sealed ones
// to be opened once the transaction has ended.
func (n *nameSet) read(ctx context.Context, tx pgx.Tx, account contract.ID) (sealed []*usagev1.SealedName, err error) {
	batch := &pgx.Batch{}
	plain := func(names map[contract.ID]string, sql string) {
		if len(names) == 0 {
			return
		}
		batch.Queue(sql, account, ids(names)).Query(func(rows pgx.Rows) error {
			var id [16]byte
			var name string
			_, err := pgx.ForEachRow(rows, []any{&id, &name}, func() error { names[id] = name; return nil })
			return err
		})
	}
	if len(n.applications) > 0 {
		batch.Queue("SELECT application_id, display_name, definition FROM application WHERE account_id = $1::uuid AND application_id = ANY ($2::uuid[])", account, ids(n.applications)).Query(func(rows pgx.Rows) error {
			var id [16]byte
			var name string
			var definition []byte
			_, err := pgx.ForEachRow(rows, []any{&id, &name, &definition}, func() error {
				defined := new(meteringv1.ApplicationDefined)
				if err := proto.Unmarshal(definition, defined); err != nil {
					return fmt.Errorf("definition of application %s: %w", contract.ID(id), err)
				}
				n.applications[id], n.remoteClients[id] = name, defined.GetRemoteClient()
				return nil
			})
			return err
		})
	}
	plain(n.machines, "SELECT machine_id, host_name FROM machine WHERE account_id = $1::uuid AND machine_id = ANY ($2::uuid[])")
	plain(n.groups, "SELECT group_id, display_name FROM group_name WHERE account_id = $1::uuid AND group_id = ANY ($2::uuid[])")
	plain(n.sites, "SELECT manager_id, display_name FROM site_name WHERE account_id = $1::uuid AND manager_id = ANY ($2::uuid[])")
	if len(n.principals)+len(n.documents) > 0 {
		batch.Queue(`SELECT principal_id, document_id, sealed FROM sealed_name
			WHERE account_id = $1::uuid AND document_id = '00000000-0000-0000-0000-000000000000' AND principal_id = ANY ($2::uuid[])
			UNION ALL
			SELECT principal_id, document_id, sealed FROM sealed_name WHERE account_id = $1::uuid AND document_id = ANY ($3::uuid[])`,
			account, ids(n.principals), ids(n.documents),
		).Query(func(rows pgx.Rows) (err error) {
			sealed, err = pgx.CollectRows(rows, scanSealed)
			return err
		})
	}
	if err := tx.SendBatch(ctx, batch).Close(); err != nil {
		return nil, fmt.Errorf("metering: names: %w", err)
	}
	return sealed, nil
}

func scanSealed(row pgx.CollectableRow) (*usagev1.SealedName, error) {
	var principal, document contract.ID
	s := new(usagev1.SealedName)
	if err := row.Scan((*[16]byte)(&principal), (*[16]byte)(&document), &s.Sealed); err != nil {
		return nil, err
	}
	s.PrincipalId = principal[:]
	if document.IsZero() {
		s.Subject = &usagev1.SealedName_Person{Person: true}
	} else {
		s.Subject = &usagev1.SealedName_DocumentId{DocumentId: document[:]}
	}
	return s, nil
}

// open opens sealed names into the set. A document that several people have named
// takes the first name that opens.
func (n *nameSet) open(ctx context.Context, names Names, account contract.ID, sealed []*usagev1.SealedName) error {
	if names == nil || len(sealed) == 0 {
		return nil
	}
	opened, err := names.OpenNames(ctx, account, sealed)
	if err != nil {
		return fmt.Errorf("metering: opening names: %w", err)
	}
	for i, s := range sealed {
		if i >= len(opened) || opened[i] == "" {
			continue
		}
		if document, ok := s.GetSubject().(*usagev1.SealedName_DocumentId); ok {
			id, err := contract.IDFrom(document.DocumentId)
			if err == nil && n.documents[id] == "" {
				n.documents[id] = opened[i]
			}
			continue
		}
		if id, err := contract.IDFrom(s.GetPrincipalId()); err == nil {
			n.principals[id] = opened[i]
		}
	}
	return nil
}
