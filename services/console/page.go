package console

import (
	"bytes"
	"html/template"
	"io"
	"maps"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	authzv1 "github.com/cetrus/cetrus/proto/cetrus/authz/v1"
	identityv1 "github.com/cetrus/cetrus/proto/cetrus/identity/v1"
	"github.com/cetrus/cetrus/services/platform/authn"
	"github.com/cetrus/cetrus/services/platform/errs"
	"github.com/cetrus/cetrus/services/platform/rpc"
)

// page is an address of the console. Its template is named after its path.
type page struct {
	// group is the part of the menu that it stands in.
	group             menuGroup
	path, title, icon string
	// may tells from somebody's privileges whether the page is offered to them.
	may func(authn.Privileges) bool
	// show asks for what the page shows.
	show func(*Service, *visit) (any, error)
}

// menuGroup is a part of the menu.
type menuGroup string

const (
	reports  menuGroup = "Reports"
	programs menuGroup = "Applications"
	fleet    menuGroup = "Fleet"
	account  menuGroup = "Account"
	own      menuGroup = "Me"
)

// menuGroups are in their order.
var menuGroups = []menuGroup{reports, programs, fleet, account, own}

// menuPart is a group with what of it somebody may open.
type menuPart struct {
	Group menuGroup
	Pages []page
	// Here says that the page that is shown is one of them.
	Here bool
}

// pages are in the order of the menu.
var pages = []page{
	{reports, "/now", "Now", "activity", seesUse, (*Service).now},
	{reports, "/use", "Use", "chart-bar", seesUse, (*Service).use},
	{reports, "/concurrent", "Concurrent use", "chart-area-line", seesUse, (*Service).concurrent},
	{reports, "/licences", "Licences needed", "license", seesAll, (*Service).licences},
	{reports, "/forecast", "Forecast", "calendar", seesAll, (*Service).forecast},
	{reports, "/account-use", "Use of the account", "building", seesMany, (*Service).accountUse},
	{reports, "/unused", "Unused", "user-off", seesUse, (*Service).unused},
	{reports, "/idle", "Idle", "zzz", seesUse, (*Service).idle},
	{reports, "/timeline", "Timeline", "clock", seesUse, (*Service).timeline},
	{reports, "/sessions", "Sessions", "devices", seesUse, (*Service).sessions},
	{reports, "/sessions/{id}", "One session", "", seesUse, (*Service).session},
	{reports, "/instances", "Runs", "list-details", seesUse, (*Service).instances},
	{reports, "/instances/{id}", "One run", "", seesUse, (*Service).instance},
	{reports, "/quality", "Data quality", "alert-triangle", seesAll, (*Service).quality},
	{reports, "/saved-reports", "Saved reports", "file-text", saves, (*Service).savedReports},
	{reports, "/saved-reports/new", "Save a report", "", saves, (*Service).newSaved},
	{reports, "/saved-reports/{id}", "Saved report", "", saves, (*Service).savedReport},
	{reports, "/files", "Files", "download", saves, (*Service).files},
	{reports, "/files/new", "Make a file in the background", "", saves, (*Service).newFile},
	{programs, "/applications", "Applications", "apps", seesUse, (*Service).applications},
	{programs, "/applications/{id}", "Application", "", administers, (*Service).application},
	{fleet, "/start", "First steps", "check", administers, (*Service).guide},
	{fleet, "/agents", "Agents", "device-desktop", administers, (*Service).agentList},
	{fleet, "/agents/{id}", "Agent", "", administers, (*Service).agent},
	{fleet, "/managers", "Managers", "server", administers, (*Service).managerList},
	{fleet, "/managers/{id}", "Manager", "", administers, (*Service).manager},
	{account, "/people", "Logins", "users", administers, (*Service).people},
	{account, "/people/new", "A new login", "", administers, (*Service).newLogin},
	{account, "/people/{id}", "Login", "", administers, (*Service).person},
	{account, "/principals", "People at the desktops", "devices", administers, (*Service).principalList},
	{account, "/groups", "Groups", "users-group", administers, (*Service).groups},
	{account, "/groups/{id}", "Group", "", administers, (*Service).group},
	{account, "/sign-in-settings", "Signing in", "shield-lock", administers, (*Service).signInSettings},
	{account, "/account-settings", "Settings", "settings", administers, (*Service).accountSettings},
	{account, "/audit-log", "Audit log", "file-text", administers, (*Service).audit},
	{account, "/corrections", "Corrections", "bell", administers, (*Service).corrections},
	{own, "/me", "My login", "user", anybody, (*Service).me},
	{own, "/my-data", "My data", "file-text", anybody, (*Service).myData},
	{own, "/api-keys", "API keys", "key", anybody, (*Service).keys},
}

func administers(p authn.Privileges) bool {
	return p.Has(authzv1.Privilege_PRIVILEGE_ACCOUNT_ADMINISTRATOR)
}

func seesAll(p authn.Privileges) bool {
	return administers(p) || p.Has(authzv1.Privilege_PRIVILEGE_REPORT)
}

// seesMany tells who may see what many did together.
func seesMany(p authn.Privileges) bool {
	return seesAll(p) || p.Has(authzv1.Privilege_PRIVILEGE_PURCHASING)
}

func seesUse(p authn.Privileges) bool {
	return seesAll(p) || p.Has(authzv1.Privilege_PRIVILEGE_APPLICATION_USER)
}

// frame is what every page has around it.
type frame struct {
	Title, Path string
	// Language is the one that dates are written in; empty: the browser's.
	Language string
	// Menu is what the person may open.
	Menu []menuPart
	// Exports are the files of what the page shows.
	Exports []exportLink
	// Save is where what the page shows is saved; empty where it is no report.
	Save string
	// Background is where a file of it is made while nobody waits; nil where it is no report.
	Background *backgroundLink
	// Notice is what was just done.
	Notice string
	// Person and Account are their names; empty where nobody is signed in.
	Person, Account string
	Privileges      string
	// Made is when what is shown was asked for, for who reads it on paper.
	Made *timestamppb.Timestamp
	Body any
}

// template is the name of the page's template: that of its path, or for one thing of a list the
// list's without its plural, or after one-of where it is no plural.
func (p page) template() string {
	name := strings.TrimPrefix(p.path, "/")
	if list, one := strings.CutSuffix(name, "s/{id}"); one {
		return list
	}
	if list, one := strings.CutSuffix(name, "/{id}"); one {
		return "one-of-" + list
	}
	return strings.ReplaceAll(name, "/", "-")
}

// Path, Title and Icon are for templates.
func (p page) Path() string { return p.path }

// Title is the page's name.
func (p page) Title() string { return p.title }

// Holds tells whether the menu leads to an address by this page.
func (p page) Holds(address string) bool {
	return address == p.path || strings.HasPrefix(address, p.path+"/")
}

// Icon is its picture, a name in icons.txt.
func (p page) Icon() string { return p.icon }

// frameFile is the template around every page.
const frameFile = "frame.html"

// formFile is the parts of forms.
const formFile = "form.html"

func parseTemplates(a *assets) (map[string]*template.Template, error) {
	entries, err := templateFiles.ReadDir("templates")
	if err != nil {
		return nil, err
	}
	functions := template.FuncMap{"asset": a.address, "icon": a.icon}
	maps.Copy(functions, formatsOf(neutral))
	all := map[string]*template.Template{}
	for _, entry := range entries {
		name := strings.TrimSuffix(entry.Name(), ".html")
		if entry.Name() == frameFile || entry.Name() == formFile {
			continue
		}
		t, err := template.New("").Funcs(functions).ParseFS(templateFiles, path.Join("templates", frameFile), path.Join("templates", formFile), path.Join("templates", entry.Name()))
		if err != nil {
			return nil, err
		}
		all[name] = t
	}
	return all, nil
}

// icon is a picture of vendor/icons.svg. It says nothing that the words beside it do not.
func (a *assets) icon(name string) (template.HTML, error) {
	address, err := a.address("vendor/icons.svg")
	if err != nil {
		return "", err
	}
	//nolint:gosec // both parts are of this program
	return template.HTML(`<svg class="icon" aria-hidden="true" width="24" height="24" fill="none" stroke="currentColor" stroke-width="2" stroke-linecap="round" stroke-linejoin="round"><use href="` +
		address + "#" + template.HTMLEscapeString(name) + `"/></svg>`), nil
}

// askable refuses an address with a parameter that is no text, and so cannot be asked for.
func askable(v *visit) error {
	for name, values := range v.r.URL.Query() {
		for _, value := range values {
			if !utf8.ValidString(value) {
				return errs.InvalidFields("console", "", errs.Field{Path: strings.ToValidUTF8(name, "\uFFFD"), Description: "is no text"})
			}
		}
	}
	return nil
}

// admits refuses who has not the privilege for something, in the words of what it is, and what cannot be asked.
func admits(v *visit, may func(authn.Privileges) bool, refusal string) error {
	if !may(v.caller.Privileges) {
		return notTheirs(refusal)
	}
	return askable(v)
}

// notTheirs refuses what is for others.
func notTheirs(refusal string) error {
	return errs.New(errs.Denied, "console", "", refusal+": your login does not have the privilege that it needs")
}

// page answers with one page, or says why it cannot.
func (s *Service) page(p *page) func(*visit) {
	return func(v *visit) {
		v.page = p
		if err := admits(v, p.may, "this page is for others"); err != nil {
			s.fail(v, err)
			return
		}
		made := s.showTyped(v)
		body, err := p.show(s, v)
		if err != nil {
			if !s.showWrong(v, p, body, err) {
				s.fail(v, err)
			}
			return
		}
		made()
		s.write(v, http.StatusOK, p.template(), p.title, body)
	}
}

// write makes the page of a template, or a page that says that it could not be made.
func (s *Service) write(v *visit, httpStatus int, name, title string, body any) {
	f := frame{Title: title, Path: v.r.URL.Path, Made: timestamppb.New(s.deps.Now().Truncate(time.Second)), Body: body}
	if none, ok := body.(interface{ NoFile() bool }); httpStatus == http.StatusOK && (!ok || !none.NoFile()) {
		f.Exports, f.Save, f.Background = exportsOf(v), saveAddress(v), backgroundOf(v)
	}
	if !v.caller.Account.IsZero() {
		f.Menu = menuOf(v)
		if v.r.Header.Get("Hx-Request") == "" { // who asks for a part of a page does not show it
			f.Notice = takeNotice(v.w, v.r)
		}
		f.Person, f.Account = s.names(v)
		var privileges []string
		for _, p := range v.caller.Privileges.List() {
			privileges = append(privileges, authn.PrivilegeName(p))
		}
		f.Privileges = strings.Join(privileges, ", ")
	}
	var out bytes.Buffer
	if err := s.render(&out, v.r, name, "page", &f); err != nil {
		s.deps.Logger.ErrorContext(v.ctx, "a page could not be made", "page", name, "error", err)
		http.Error(v.w, "This page could not be made. "+seeLog, http.StatusInternalServerError)
		return
	}
	v.w.Header().Set("Content-Type", "text/html; charset=utf-8")
	v.w.WriteHeader(httpStatus)
	_, _ = v.w.Write(out.Bytes()) // the browser is gone where this fails
}

// render writes a part of a page as whoever asks reads it.
func (s *Service) render(w io.Writer, r *http.Request, name, part string, body any) error {
	l, spoken := localeOf(r)
	if f, ok := body.(*frame); ok {
		f.Language = spoken
	}
	t, err := s.templates.of(name, l)
	if err != nil {
		return err
	}
	return t.ExecuteTemplate(w, part, body)
}

// menuOf is what the person may open.
func menuOf(v *visit) (menu []menuPart) {
	for _, group := range menuGroups {
		part := menuPart{Group: group}
		for _, p := range pages {
			if p.group == group && p.icon != "" && p.may(v.caller.Privileges) {
				part.Pages = append(part.Pages, p)
				part.Here = part.Here || p.Holds(v.r.URL.Path)
			}
		}
		if len(part.Pages) > 0 {
			menu = append(menu, part)
		}
	}
	return menu
}

// names are the person's and their account's, as the head of each page shows them; a page is
// not refused because they cannot be read.
func (s *Service) names(v *visit) (person, account string) {
	if mine, err := s.logins.GetMyLogin(v.ctx, &identityv1.GetMyLoginRequest{}); err == nil {
		if person = mine.GetLogin().GetDisplayName(); person == "" {
			person = mine.GetLogin().GetName()
		}
	}
	if of, err := s.accounts.GetAccount(v.ctx, &identityv1.GetAccountRequest{}); err == nil {
		account = of.GetAccount().GetName()
	}
	return person, account
}

// failure is what a page says that could not be shown.
type failure struct {
	Heading, Message string
	// Lines are what of the request was wrong; there is no Message then.
	Lines []wrongLine
	// Again offers to repeat, Reason to do so with a reason.
	Again, Reason bool
	// Query is what was asked for.
	Query url.Values
}

const (
	insideWrong = "Something is wrong inside Cetrus"
	seeLog      = "The operator finds the reason in the platform's log."
)

// statusOf is the status of an error as people may see it.
func statusOf(err error) *status.Status {
	if st, ok := status.FromError(err); ok && st.Code() == codes.Unavailable && len(st.Details()) == 0 {
		// grpc-go's own text names addresses inside.
		err = errs.As(errs.Unavailable, "console", "", "a part of it cannot be reached: try again in a moment", err)
	}
	return rpc.Status(err)
}

// fail says why something could not be shown or done, in the words of who refused it.
func (s *Service) fail(v *visit, err error) {
	st := statusOf(err)
	f, httpStatus := failure{Message: st.Message()}, http.StatusInternalServerError
	switch st.Code() {
	case codes.Unauthenticated:
		s.toSignIn(v.w, v.r)
		return
	case codes.PermissionDenied:
		f.Heading, httpStatus = "You may not see this", http.StatusForbidden
	case codes.NotFound:
		f.Heading, httpStatus = "This was not found", http.StatusNotFound
	case codes.InvalidArgument, codes.FailedPrecondition, codes.OutOfRange:
		f.Heading, httpStatus = "This cannot be shown as asked", http.StatusBadRequest
		f.Query = v.r.URL.Query()
		f.Query.Del(reasonParameter)
		if f.Lines = wrongLines(v, st); len(violations(st)) > 0 { // which are the message in parts
			f.Message = ""
		}
		f.Reason = slices.ContainsFunc(f.Lines, func(l wrongLine) bool { return l.ID == reasonParameter })
	case codes.AlreadyExists, codes.Aborted:
		f.Heading, httpStatus = "This cannot be done as asked", http.StatusConflict
	case codes.Unavailable, codes.DeadlineExceeded, codes.ResourceExhausted:
		f.Heading, f.Again, httpStatus = "Cetrus does not answer right now", true, http.StatusServiceUnavailable
	case codes.Canceled:
		return // nobody waits for it
	default:
		f.Heading, f.Message = insideWrong, seeLog
		s.deps.Logger.ErrorContext(v.ctx, "a page could not be shown", "path", v.r.URL.Path, "error", err)
	}
	s.write(v, httpStatus, "failure", f.Heading, f)
}

// lost answers for addresses that are no page, to whoever asks.
func (s *Service) lost(w http.ResponseWriter, r *http.Request) {
	v := &visit{ctx: r.Context(), w: w, r: r}
	if caller, token, err := s.enter(w, r); err == nil {
		v.caller, v.ctx = caller, asking(r, token)
	}
	s.write(v, http.StatusNotFound, "failure", "There is no such page",
		failure{Heading: "There is no such page", Message: "The address may be mistyped, or of another version of Cetrus."})
}
