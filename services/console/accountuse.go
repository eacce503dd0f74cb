package console

import (
	"net/url"
	"slices"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	meteringv1 "github.com/cetrus/cetrus/proto/cetrus/metering/v1"
)

const (
	monthLayout = "2006-01"
	// monthsBack is how many months are shown at once, and monthsOffered how many there are to choose from.
	monthsBack, monthsOffered = 3, 36
)

// accountUsePage is what the whole account does with its applications, month by month.
type accountUsePage struct {
	*asked
	First, Last []choice
	Answer      *meteringv1.QueryAccountUseResponse
	Since       *timestamppb.Timestamp
	Period      period
	Query       url.Values
	// Leads says that whoever asks may see what is behind the figures.
	Leads bool
}

// Behind is the address of a report of one application in one month.
func (accountUsePage) Behind(report string, u *meteringv1.AccountUse, pairs ...string) string {
	month, err := time.Parse(monthLayout, u.GetMonth())
	if err != nil {
		return report
	}
	return report + with(nil, append(pairs, "application", u.GetApplicationId(), "from", month.Format(day), "to", month.AddDate(0, 1, -1).Format(day))...)
}

func (s *Service) accountUse(v *visit) (any, error) {
	query := v.r.URL.Query()
	// Who buys cannot ask for the account's zone by a summary of use; the answer tells it. Months that have ended
	// everywhere have ended there too.
	now := s.deps.Now().UTC().Add(-14 * time.Hour)
	newest := time.Date(now.Year(), now.Month()-1, 1, 0, 0, 0, 0, time.UTC)
	first, last := query.Get("first"), query.Get("last")
	if first == "" {
		first = newest.AddDate(0, 1-monthsBack, 0).Format(monthLayout)
	}
	if last == "" {
		last = newest.Format(monthLayout)
	}
	page := accountUsePage{asked: v.asks(), Query: query, Leads: seesAll(v.caller.Privileges)}
	for back := range monthsOffered {
		month := newest.AddDate(0, -back, 0).Format(monthLayout)
		page.First = append(page.First, choice{month, month, month == first})
		page.Last = append(page.Last, choice{month, month, month == last})
	}
	// Months of before those offered may be asked for by an address; what is none, the answer says.
	for _, chosen := range []struct {
		month   string
		offered *[]choice
	}{{first, &page.First}, {last, &page.Last}} {
		if !slices.ContainsFunc(*chosen.offered, func(c choice) bool { return c.Chosen }) {
			*chosen.offered = append(*chosen.offered, choice{chosen.month, chosen.month, true})
		}
	}
	answer, err := s.reports.QueryAccountUse(v.ctx, &meteringv1.QueryAccountUseRequest{FirstMonth: first, LastMonth: last})
	if err != nil {
		return page, err
	}
	page.Answer, page.Since, page.Period.Zone = answer, answer.GetDataSinceTime(), time.UTC
	return page, nil
}
