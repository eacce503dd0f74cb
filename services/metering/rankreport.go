package metering

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"
	"google.golang.org/protobuf/types/known/timestamppb"

	meteringv1 "github.com/cetrus/cetrus/proto/cetrus/metering/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/platform/resource"
)

// compared is the use of one thing in a period, and in the one that it is compared with.
type compared struct {
	id     contract.ID
	totals [2]Totals
	people [2]int64
	rank   [2]int64
}

// value is what a ranking goes by.
func (c *compared) value(by meteringv1.RankBy, period int) int64 {
	switch by {
	case meteringv1.RankBy_RANK_BY_OPEN:
		return c.totals[period].Open().Milliseconds()
	case meteringv1.RankBy_RANK_BY_INSTANCES:
		return c.totals[period].Instances
	case meteringv1.RankBy_RANK_BY_PEOPLE:
		return c.people[period]
	default:
		return c.totals[period].Millis[busyIndex]
	}
}

// order gives the ranks of both periods, and leaves the rows in the order of the first.
func order(rows []*compared, by meteringv1.RankBy) {
	for _, period := range []int{1, 0} {
		slices.SortFunc(rows, func(a, b *compared) int {
			aThere, bThere := a.totals[period] != Totals{}, b.totals[period] != Totals{}
			switch {
			case aThere && !bThere:
				return -1
			case bThere && !aThere:
				return 1
			}
			return cmp.Or(cmp.Compare(b.value(by, period), a.value(by, period)), bytes.Compare(a.id[:], b.id[:]))
		})
		for i, row := range rows {
			if row.totals[period] != (Totals{}) || period == 0 {
				row.rank[period] = int64(i) + 1
			}
		}
	}
}

func (a *reportAPI) RankUsage(ctx context.Context, req *meteringv1.RankUsageRequest) (*meteringv1.RankUsageResponse, error) {
	const op = "metering.RankUsage"
	r, err := reportOf(ctx, op, alwaysCompared{req})
	if err != nil {
		return nil, err
	}
	before := *r.compare
	by, id := byApplication, func(k groupKey) contract.ID { return k.application }
	switch req.GetGroupBy() {
	case meteringv1.GroupBy_GROUP_BY_PRINCIPAL:
		by, id = byPrincipal, func(k groupKey) contract.ID { return k.principal }
	case meteringv1.GroupBy_GROUP_BY_MACHINE:
		by, id = byMachine, func(k groupKey) contract.ID { return k.machine }
	case meteringv1.GroupBy_GROUP_BY_GROUP:
		by, id = byGroup, func(k groupKey) contract.ID { return k.group }
	case meteringv1.GroupBy_GROUP_BY_SITE:
		by, id = bySite, func(k groupKey) contract.ID { return k.site }
	default:
	}
	if err := a.viewed(ctx, r, req, by&byNamed != 0); err != nil {
		return nil, err
	}
	r.byCells = true
	var rows []*compared
	resp := &meteringv1.RankUsageResponse{}
	var totals [2]Totals
	err = a.read(ctx, r, "UTC", func(tx pgx.Tx) error {
		before.from = max(before.from, r.kept)
		before.to = max(before.to, before.from)
		index := make(map[contract.ID]*compared)
		q := summary{by: by | byPrincipal, filter: r.filter, merged: r.merged}
		if err := q.readPlaces(ctx, tx, r.caller.Account); err != nil {
			return err
		}
		for i, p := range []period{{r.from, r.to}, before} {
			groups, total, err := readRanked(ctx, tx, r.caller.Account, p, &q)
			if err != nil {
				return err
			}
			totals[i] = total
			for _, g := range groups {
				row := index[id(g.key)]
				if row == nil {
					row = &compared{id: id(g.key)}
					index[row.id] = row
					rows = append(rows, row)
				}
				row.totals[i].Add(g.totals)
				if g.totals.Open() > 0 {
					row.people[i]++
				}
			}
		}
		order(rows, req.GetRankBy())
		resp.TotalRanks = int64(len(rows))
		rows = rows[:min(len(rows), resource.PageSize(req.GetLimit(), 100))]
		for _, row := range rows {
			switch by {
			case byPrincipal:
				r.names.want(contract.ID{}, row.id, contract.ID{}, contract.ID{})
			case byMachine:
				r.names.want(contract.ID{}, contract.ID{}, row.id, contract.ID{})
			case byGroup:
				r.names.wantPlace(row.id, contract.ID{})
			case bySite:
				r.names.wantPlace(contract.ID{}, row.id)
			default:
				r.names.want(row.id, contract.ID{}, contract.ID{}, contract.ID{})
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	resp.CompareStartTime, resp.CompareEndTime = timestamppb.New(before.from.time()), timestamppb.New(before.to.time())
	resp.Position, resp.Totals, resp.CompareTotals, resp.DataSinceTime = r.position, totals[0].message(), totals[1].message(), r.since
	for _, row := range rows {
		m := &meteringv1.UsageRank{
			Rank: row.rank[0], CompareRank: row.rank[1], Totals: row.totals[0].message(), CompareTotals: row.totals[1].message(),
			People: row.people[0], ComparePeople: row.people[1],
		}
		switch by {
		case byPrincipal:
			m.PrincipalId, m.PrincipalName = row.id.String(), r.names.principals[row.id]
		case byMachine:
			m.MachineId, m.MachineName = row.id.String(), r.names.machines[row.id]
		case byGroup:
			m.GroupId, m.GroupName = idText(row.id), r.names.groups[row.id]
		case bySite:
			m.ManagerId, m.ManagerName = idText(row.id), r.names.sites[row.id]
		default:
			m.ApplicationId, m.ApplicationName, m.RemoteClient = row.id.String(), r.names.applications[row.id], r.names.remoteClients[row.id]
		}
		resp.Ranks = append(resp.Ranks, m)
	}
	return resp, nil
}

// alwaysCompared is a ranking's question, which has a period before whether it asks for one or not.
type alwaysCompared struct{ *meteringv1.RankUsageRequest }

// GetCompare implements compareRequest.
func (alwaysCompared) GetCompare() bool { return true }

// period is [from, to).
type period struct{ from, to quarter }

// readRanked adds up instance time of everybody, or of those whom the filter leaves: by what is
// ranked and by person, and in all.
func readRanked(ctx context.Context, tx pgx.Tx, account contract.ID, p period, q *summary) (groups []group, total Totals, err error) {
	if p.from >= p.to {
		return nil, total, nil
	}
	who, err := readAudience(ctx, tx, account, &summary{by: byPrincipal, filter: q.filter})
	if err != nil {
		return nil, total, err
	}
	if _, err := tx.Exec(ctx, tuneForCells); err != nil {
		return nil, total, fmt.Errorf("metering: %w", err)
	}
	cells := cellQuery{by: q.by, filter: q.filter, merged: q.merged, buckets: []bucket{{from: p.from, to: p.to}}, narrow: true, principals: who.principals}
	if q.by&(byGroup|bySite) != 0 {
		if groups, err = readPlaced(ctx, tx, account, q, cells); err != nil {
			return nil, total, err
		}
		cells.by = 0
		once, err := readCells(ctx, tx, account, cells)
		for _, g := range once { // who is in two groups counts once
			total.Add(g.totals)
		}
		return groups, total, err
	}
	groups, err = readCells(ctx, tx, account, cells)
	for _, g := range groups {
		total.Add(g.totals)
	}
	return groups, total, err
}
