package console

import (
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	authzv1 "github.com/cetrus/cetrus/proto/cetrus/authz/v1"
	meteringv1 "github.com/cetrus/cetrus/proto/cetrus/metering/v1"
	"github.com/cetrus/cetrus/services/platform/authn"
)

// listPageSize is how many lines a list shows at once.
const listPageSize = 100

// listPage is a list with a page after it.
type listPage[T any] struct {
	Zone     *time.Location
	Items    []T
	NextPage string
}

// zoneFor is the account's zone, or UTC for who may see no use and so is told none.
func (s *Service) zoneFor(v *visit) (*time.Location, error) {
	zone, err := s.zone(v.ctx, v.caller.Account)
	if status.Code(err) == codes.PermissionDenied {
		return time.UTC, nil
	}
	return zone, err
}

// list asks for one page of a list.
func list[T any](s *Service, v *visit, ask func(size int32, token string) ([]T, string, error)) (listPage[T], error) {
	zone, err := s.zoneFor(v)
	if err != nil {
		return listPage[T]{}, err
	}
	query := v.r.URL.Query()
	items, next, err := ask(listPageSize, query.Get("page"))
	if err != nil {
		return listPage[T]{}, err
	}
	page := listPage[T]{Zone: zone, Items: items}
	if next != "" {
		page.NextPage = with(query, "page", next)
	}
	return page, nil
}

// Condition and Privilege are words for templates.
func (listPage[T]) Condition(c meteringv1.AgentCondition) string {
	return strings.ToLower(strings.TrimPrefix(c.String(), "AGENT_CONDITION_"))
}

// Privilege is one as people know it.
func (listPage[T]) Privilege(p authzv1.Privilege) string { return authn.PrivilegeName(p) }
