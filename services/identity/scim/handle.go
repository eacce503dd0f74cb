package scim

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	identityv1 "github.com/cetrus/cetrus/proto/cetrus/identity/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/platform/authn"
	"github.com/cetrus/cetrus/services/platform/errs"
)

// mostResults bounds a page.
const mostResults = 200

// request is one request of SCIM.
type request struct {
	*identityv1.HandleScimRequest
	caller   authn.Caller
	settings Settings
	query    url.Values
	base     string
}

// reply is what it is answered with.
type reply struct {
	status         int
	etag, location string
	body           any
}

// handle answers a request. What went wrong in Cetrus itself is an error; all else that did is an
// answer.
func (s *Service) handle(ctx context.Context, caller authn.Caller, in *identityv1.HandleScimRequest) (*identityv1.HandleScimResponse, error) {
	out, err := s.answer(ctx, caller, in)
	if err != nil {
		var f *failure
		if !errors.As(err, &f) {
			if f = failureOf(err); f == nil {
				return nil, errs.Wrap("identity.HandleScim", "", err)
			}
		}
		return &identityv1.HandleScimResponse{Status: int32(f.status), Body: errorBody(f.status, f.scimType, f.text)}, nil
	}
	resp := &identityv1.HandleScimResponse{Status: int32(out.status), Etag: out.etag, Location: out.location}
	if out.body != nil {
		if resp.Body, err = json.Marshal(out.body); err != nil {
			return nil, fmt.Errorf("scim: answer: %w", err)
		}
	}
	return resp, nil
}

func (s *Service) answer(ctx context.Context, caller authn.Caller, in *identityv1.HandleScimRequest) (reply, error) {
	settings, err := s.settingsOf(ctx, "identity.HandleScim", caller.Account)
	if err != nil {
		return reply{}, err
	}
	if !settings.Enabled {
		return reply{}, &failure{http.StatusForbidden, "", "provisioning is off in this account: an administrator switches it on"}
	}
	query, err := url.ParseQuery(in.GetQuery())
	if err != nil {
		return reply{}, bad(invalidSyntax, "the query part of the address is malformed")
	}
	r := &request{HandleScimRequest: in, caller: caller, settings: settings, query: query, base: s.baseURL()}
	path := strings.TrimSuffix(in.GetPath(), "/")
	for _, resource := range []resourceHandler{users{s}, groups{s}} {
		if rest, ok := strings.CutPrefix(path, resource.kind().path); ok && (rest == "" || rest[0] == '/') {
			return s.onResource(ctx, r, resource, strings.TrimPrefix(rest, "/"))
		}
	}
	return discovery(r, path)
}

// discovery answers what there is.
func discovery(r *request, path string) (reply, error) {
	kinds := []kind{userKind(), groupKind()}
	list := func(shown func(kind) map[string]any) reply {
		var all []any
		for _, k := range kinds {
			all = append(all, shown(k))
		}
		return reply{status: http.StatusOK, body: listed(all, len(all), 1)}
	}
	schemas := func(k kind) map[string]any { return k.schemaShown(r.base) }
	types := func(k kind) map[string]any { return k.typeShown(r.base) }
	found := reply{}
	switch path {
	case "/ServiceProviderConfig":
		found = reply{status: http.StatusOK, body: configShown(r.base)}
	case "/Schemas":
		found = list(schemas)
	case "/ResourceTypes":
		found = list(types)
	case "/Me", "/Bulk", "/.search":
		return reply{}, &failure{http.StatusNotImplemented, "", path + " is not supported; /ServiceProviderConfig says what is"}
	}
	for _, k := range kinds {
		switch path {
		case "/Schemas/" + k.schema:
			found = reply{status: http.StatusOK, body: schemas(k)}
		case "/ResourceTypes/" + k.name:
			found = reply{status: http.StatusOK, body: types(k)}
		}
	}
	switch {
	case found.body == nil:
		return reply{}, &failure{http.StatusNotFound, "", path + " is no endpoint here; /ResourceTypes tells which there are"}
	case r.GetMethod() != http.MethodGet:
		return reply{}, notAllowed(r)
	case r.query.Has("filter"): // RFC 7644 §4
		return reply{}, &failure{http.StatusForbidden, "", path + " takes no filter"}
	}
	return found, nil
}

func notAllowed(r *request) *failure {
	return &failure{http.StatusMethodNotAllowed, "", r.GetMethod() + " is not for " + r.GetPath()}
}

func listed(resources []any, total, start int) map[string]any {
	if resources == nil {
		resources = []any{}
	}
	return map[string]any{"schemas": []any{listMessage}, "totalResults": total, "startIndex": start, "itemsPerPage": len(resources), "Resources": resources}
}

// shown is a resource as SCIM has it.
type shown interface {
	shown(base string) map[string]any
	version() string
}

// resourceHandler is what can be asked of one kind of resource.
type resourceHandler interface {
	kind() kind
	list(ctx context.Context, r *request, p page) (found []shown, total int, err error)
	get(ctx context.Context, r *request, id contract.ID) (shown, error)
	create(ctx context.Context, r *request) (shown, error)
	change(ctx context.Context, r *request, id contract.ID) (shown, error)
	remove(ctx context.Context, r *request, id contract.ID) error
}

func (s *Service) onResource(ctx context.Context, r *request, h resourceHandler, name string) (reply, error) {
	k := h.kind()
	projection, err := r.projection(k)
	if err != nil {
		return reply{}, err
	}
	answer := func(status int, found shown) reply {
		m := found.shown(r.base)
		out := reply{status: status, etag: found.version(), body: projection(m)}
		if status == http.StatusCreated {
			out.location, _ = m["meta"].(map[string]any)["location"].(string)
		}
		return out
	}
	if name == "" {
		switch r.GetMethod() {
		case http.MethodGet:
			return r.list(ctx, h, projection)
		case http.MethodPost:
			done, err := s.turns.take(ctx, r.caller.Account)
			if err != nil {
				return reply{}, err
			}
			defer done()
			made, err := h.create(ctx, r)
			if err != nil {
				return reply{}, err
			}
			return answer(http.StatusCreated, made), nil
		}
		return reply{}, notAllowed(r)
	}
	if name == ".search" {
		return reply{}, &failure{http.StatusNotImplemented, "", "/.search is not supported: GET " + k.path + "?filter=…"}
	}
	id, err := contract.ParseID(name)
	if err != nil {
		return reply{}, k.missing()
	}
	if r.GetMethod() == http.MethodGet {
		found, err := h.get(ctx, r, id)
		if err != nil {
			return reply{}, err
		}
		if r.GetIfNoneMatch() != "" && named(r.GetIfNoneMatch(), found.version()) {
			return reply{status: http.StatusNotModified, etag: found.version()}, nil
		}
		return answer(http.StatusOK, found), nil
	}
	done, err := s.turns.take(ctx, r.caller.Account)
	if err != nil {
		return reply{}, err
	}
	defer done()
	switch r.GetMethod() {
	case http.MethodPut, http.MethodPatch:
		changed, err := h.change(ctx, r, id)
		if err != nil {
			return reply{}, err
		}
		return answer(http.StatusOK, changed), nil
	case http.MethodDelete:
		return reply{status: http.StatusNoContent}, h.remove(ctx, r, id)
	}
	return reply{}, notAllowed(r)
}

func (k kind) missing() *failure {
	return &failure{http.StatusNotFound, "", "there is no such " + strings.ToLower(k.name) + ", or the identity provider does not keep it"}
}

// named tells whether a header of ETags names a version. They compare weakly.
func named(header, version string) bool {
	for one := range strings.SplitSeq(header, ",") {
		one = strings.TrimPrefix(strings.TrimSpace(one), "W/")
		if one == "*" || one == strings.TrimPrefix(version, "W/") {
			return true
		}
	}
	return false
}

// current refuses a change of what the provider has not seen.
func (r *request) current(version string) error {
	if r.GetIfMatch() != "" && !named(r.GetIfMatch(), version) {
		return &failure{http.StatusPreconditionFailed, "", "it was changed since you read it: read it again, then repeat your change"}
	}
	return nil
}

// page is which part of a list is asked for.
type page struct {
	start, count int
	query        Query
	// fits is nil for all.
	fits criterion
}

func (r *request) list(ctx context.Context, h resourceHandler, projection func(map[string]any) map[string]any) (reply, error) {
	p := page{start: 1, count: mostResults / 2}
	if err := errors.Join(r.number("startIndex", &p.start), r.number("count", &p.count)); err != nil {
		return reply{}, err
	}
	p.start, p.count = max(p.start, 1), min(max(p.count, 0), mostResults)
	if text := r.query.Get("filter"); text != "" {
		e, c, err := h.kind().parseFilter(text)
		if err != nil {
			return reply{}, err
		}
		p.fits, p.query = c, narrowed(e, p.query)
		p.query.Match = func(u User) bool { return c(u.shown(r.base)) }
	}
	p.query.Skip, p.query.Most = p.start-1, p.count
	found, total, err := h.list(ctx, r, p)
	if err != nil {
		return reply{}, err
	}
	var resources []any
	for _, one := range found {
		resources = append(resources, projection(one.shown(r.base)))
	}
	return reply{status: http.StatusOK, body: listed(resources, total, p.start)}, nil
}

// number reads a parameter of the query, where it is there.
func (r *request) number(name string, into *int) error {
	text := r.query.Get(name)
	if text == "" {
		return nil
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		return bad(invalidValue, name+": is no whole number")
	}
	*into = n
	return nil
}

// projection leaves of a resource what the query asks for.
func (r *request) projection(k kind) (func(map[string]any) map[string]any, error) {
	names := func(parameter string) ([]target, error) {
		var list []target
		for text := range strings.SplitSeq(r.query.Get(parameter), ",") {
			if text = strings.TrimSpace(text); text == "" {
				continue
			}
			at, _, err := k.parsePath(text)
			if err != nil || at.which != nil {
				return nil, bad(invalidValue, parameter+": "+text+" is no attribute of "+k.name)
			}
			list = append(list, at)
		}
		return list, nil
	}
	only, err := names("attributes")
	if err != nil {
		return nil, err
	}
	without, err := names("excludedAttributes")
	if err != nil {
		return nil, err
	}
	if len(only) > 0 && len(without) > 0 {
		return nil, bad(invalidValue, "attributes: name them or excludedAttributes, not both")
	}
	always := func(name string) bool { return name == "schemas" || name == "id" }
	return func(m map[string]any) map[string]any {
		out := map[string]any{}
		for name, value := range m {
			switch {
			case always(name):
				out[name] = value
			case len(only) > 0:
				if kept := part(value, name, only, true); kept != nil {
					out[name] = kept
				}
			default:
				if kept := part(value, name, without, false); kept != nil {
					out[name] = kept
				}
			}
		}
		return out
	}, nil
}

// part is what is left of an attribute's value; nil: nothing.
func part(value any, name string, named []target, keep bool) any {
	var subs []string
	mentioned := false
	for _, at := range named {
		if at.attribute == name {
			if mentioned = true; at.sub == "" {
				return map[bool]any{true: value}[keep]
			}
			subs = append(subs, at.sub)
		}
	}
	if !mentioned {
		return map[bool]any{false: value}[keep]
	}
	cut := func(v any) any {
		m, ok := v.(map[string]any)
		if !ok {
			return v
		}
		out := map[string]any{}
		for key, inner := range m {
			if slices.Contains(subs, key) == keep {
				out[key] = inner
			}
		}
		return out
	}
	list, many := value.([]any)
	if !many {
		return cut(value)
	}
	var out []any
	for _, v := range list {
		out = append(out, cut(v))
	}
	return out
}

// users are the logins that the provider keeps.
type users struct{ service *Service }

func (users) kind() kind { return userKind() }

func (h users) list(ctx context.Context, r *request, p page) ([]shown, int, error) {
	found, total, err := h.service.deps.Directory.Users(ctx, r.caller.Account, r.settings, p.query)
	return shownAll(found), total, err
}

func shownAll[T shown](all []T) []shown {
	var list []shown
	for _, one := range all {
		list = append(list, one)
	}
	return list
}

func (h users) get(ctx context.Context, r *request, id contract.ID) (shown, error) {
	found, _, err := h.service.deps.Directory.Users(ctx, r.caller.Account, r.settings, Query{ID: id, Most: 1})
	if err != nil {
		return nil, err
	}
	if len(found) == 0 {
		return nil, h.kind().missing()
	}
	return found[0], nil
}

func (h users) create(ctx context.Context, r *request) (shown, error) {
	want, err := userOf(User{Active: true}, r.GetBody())
	if err != nil {
		return nil, err
	}
	return h.service.deps.Directory.CreateUser(ctx, r.caller, r.settings, want)
}

func (h users) change(ctx context.Context, r *request, id contract.ID) (shown, error) {
	return h.service.deps.Directory.ChangeUser(ctx, r.caller, r.settings, id, func(u User) (User, error) {
		if err := r.current(u.version()); err != nil {
			return u, err
		}
		if r.GetMethod() == http.MethodPut {
			return userOf(u, r.GetBody())
		}
		err := patch(&u, r.GetBody())
		return u, err
	})
}

func (h users) remove(ctx context.Context, r *request, id contract.ID) error {
	return h.service.deps.Directory.DeleteUser(ctx, r.caller, r.settings, id, func(u User) error { return r.current(u.version()) })
}

// groups are those that the provider keeps.
type groups struct{ service *Service }

func (groups) kind() kind { return groupKind() }

func (h groups) list(ctx context.Context, r *request, p page) ([]shown, int, error) {
	all, err := h.service.deps.Directory.Groups(ctx, r.caller.Account, r.settings, contract.ID{})
	if err != nil {
		return nil, 0, err
	}
	if p.fits != nil {
		all = slices.DeleteFunc(all, func(g Group) bool { return !p.fits(g.shown(r.base)) })
	}
	total := len(all)
	all = all[min(p.start-1, total):]
	return shownAll(all[:min(p.count, len(all))]), total, nil
}

func (h groups) get(ctx context.Context, r *request, id contract.ID) (shown, error) {
	found, err := h.service.deps.Directory.Groups(ctx, r.caller.Account, r.settings, id)
	if err != nil {
		return nil, err
	}
	if len(found) == 0 {
		return nil, h.kind().missing()
	}
	return found[0], nil
}

func (h groups) create(ctx context.Context, r *request) (shown, error) {
	want, err := groupOf(Group{}, r.GetBody())
	if err != nil {
		return nil, err
	}
	return h.service.deps.Directory.CreateGroup(ctx, r.caller, r.settings, want)
}

func (h groups) change(ctx context.Context, r *request, id contract.ID) (shown, error) {
	return h.service.deps.Directory.ChangeGroup(ctx, r.caller, r.settings, id, func(g Group) (Group, error) {
		if err := r.current(g.version()); err != nil {
			return g, err
		}
		if r.GetMethod() == http.MethodPut {
			return groupOf(g, r.GetBody())
		}
		err := patch(&g, r.GetBody())
		return g, err
	})
}

func (h groups) remove(ctx context.Context, r *request, id contract.ID) error {
	return h.service.deps.Directory.DeleteGroup(ctx, r.caller, r.settings, id, func(g Group) error { return r.current(g.version()) })
}
