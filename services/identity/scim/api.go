package scim

import (
	"context"

	"google.golang.org/protobuf/proto"

	identityv1 "github.com/cetrus/cetrus/proto/cetrus/identity/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/platform/authn"
	"github.com/cetrus/cetrus/services/platform/errs"
	"github.com/cetrus/cetrus/services/platform/eventlog"
	"github.com/cetrus/cetrus/services/platform/resource"
)

// api serves cetrus.identity.v1.ProvisioningService.
type api struct {
	identityv1.UnimplementedProvisioningServiceServer
	service *Service
}

func (s *Service) message(p Settings) *identityv1.Provisioning {
	return &identityv1.Provisioning{Enabled: p.Enabled, LinkLogins: p.LinkLogins, GroupMappings: p.mappingMessages(), BaseUrl: s.baseURL(), Etag: p.Etag()}
}

func (s *Service) settingsOf(ctx context.Context, op string, account contract.ID) (Settings, error) {
	p, _, err := s.settings.Load(ctx, subject(account))
	return p, errs.Wrap(op, "", err)
}

func (a *api) GetProvisioning(ctx context.Context, _ *identityv1.GetProvisioningRequest) (*identityv1.GetProvisioningResponse, error) {
	caller, err := authn.CallerFrom(ctx)
	if err != nil {
		return nil, err
	}
	p, err := a.service.settingsOf(ctx, "identity.GetProvisioning", caller.Account)
	if err != nil {
		return nil, err
	}
	return &identityv1.GetProvisioningResponse{Provisioning: a.service.message(p)}, nil
}

func (a *api) UpdateProvisioning(ctx context.Context, req *identityv1.UpdateProvisioningRequest) (*identityv1.UpdateProvisioningResponse, error) {
	const op = "identity.UpdateProvisioning"
	caller, err := authn.CallerFrom(ctx)
	if err != nil {
		return nil, err
	}
	paths, err := resource.MaskPaths(op, req.GetUpdateMask(), &identityv1.Provisioning{}, "base_url", "etag")
	if err != nil {
		return nil, err
	}
	done, err := a.service.turns.take(ctx, caller.Account)
	if err != nil {
		return nil, errs.Wrap(op, "", err)
	}
	defer done()
	result, err := a.service.settings.Execute(ctx, subject(caller.Account), eventlog.Command{Actor: caller.Actor}, func(p Settings) ([]proto.Message, error) {
		return p.decide(op, req.GetProvisioning().GetEtag(), p.with(req.GetProvisioning(), paths))
	})
	if err != nil {
		return nil, resource.CommandError(op, err)
	}
	// Also where nothing has changed: an update that was cut short can so be repeated.
	if result.State.Enabled {
		if err := a.service.deps.Directory.Refit(ctx, caller, result.State); err != nil {
			return nil, errs.Wrap(op, "", err)
		}
	}
	return &identityv1.UpdateProvisioningResponse{Provisioning: a.service.message(result.State)}, nil
}

// with is the settings with the fields that paths name as a request has them.
func (s Settings) with(m *identityv1.Provisioning, paths []string) Settings {
	for _, path := range paths {
		switch path {
		case "enabled":
			s.Enabled = m.GetEnabled()
		case "link_logins":
			s.LinkLogins = m.GetLinkLogins()
		case "group_mappings":
			s.Mappings = mappingsOf(m.GetGroupMappings())
		}
	}
	return s
}

func (a *api) HandleScim(ctx context.Context, req *identityv1.HandleScimRequest) (*identityv1.HandleScimResponse, error) {
	caller, err := authn.CallerFrom(ctx)
	if err != nil {
		return nil, err
	}
	return a.service.handle(ctx, caller, req)
}
