UPDATE `Component` SET `Attributes` = 256 WHERE `Component` = 'Agent'
UPDATE `Component` SET `Attributes` = 400 WHERE `Component` = 'Settings'
UPDATE `Registry` SET `Value` = '#%%SystemRoot%\System32\EventCreate.exe' WHERE `Name` = 'EventMessageFile'
DELETE FROM `Upgrade` WHERE `ActionProperty` = 'WIX_UPGRADE_DETECTED'
INSERT INTO `Upgrade` (`UpgradeCode`, `VersionMin`, `VersionMax`, `Attributes`, `ActionProperty`) VALUES ('{6C1D5A39-0E0B-4C37-9B4D-5B9B9B3C6E01}', '0.0.0', '@VERSION@', 769, 'WIX_UPGRADE_DETECTED')
UPDATE `InstallExecuteSequence` SET `Sequence` = 1510 WHERE `Action` = 'RemoveExistingProducts'
UPDATE `Property` SET `Value` = 'ENROLLMENT_TOKEN;MANAGER;REMOVEDATA;WIX_DOWNGRADE_DETECTED;WIX_UPGRADE_DETECTED' WHERE `Property` = 'SecureCustomProperties'
INSERT INTO `CustomAction` (`Action`, `Type`, `Source`, `Target`) VALUES ('KeepManager', 51, 'MANAGER', '[KEPTMANAGER]')
INSERT INTO `InstallExecuteSequence` (`Action`, `Condition`, `Sequence`) VALUES ('KeepManager', 'KEPTMANAGER AND NOT MANAGER', 60)
INSERT INTO `CustomAction` (`Action`, `Type`, `Source`, `Target`) VALUES ('SayManager', 51, 'MANAGERARGUMENT', ' --manager "[MANAGER]"')
INSERT INTO `InstallExecuteSequence` (`Action`, `Condition`, `Sequence`) VALUES ('SayManager', 'MANAGER', 61)
INSERT INTO `CustomAction` (`Action`, `Type`, `Source`, `Target`) VALUES ('RemoveData', 3170, 'TARGETDIR', '"[System64Folder]cmd.exe" /d /c rmdir /s /q "[CommonAppDataFolder]Cetrus\Agent" & del /q "[INSTALLDIR]agent.yaml" & rmdir "[INSTALLDIR]."')
INSERT INTO `InstallExecuteSequence` (`Action`, `Condition`, `Sequence`) VALUES ('RemoveData', 'REMOVEDATA = 1 AND REMOVE = "ALL" AND NOT UPGRADINGPRODUCTCODE', 3600)
INSERT INTO `Property` (`Property`, `Value`) VALUES ('MsiHiddenProperties', 'ENROLLMENT_TOKEN')
INSERT INTO `CustomAction` (`Action`, `Type`, `Source`, `Target`) VALUES ('LayToken', 11282, 'AgentExe', 'enroll --data-dir "[CommonAppDataFolder]Cetrus\Agent" "[ENROLLMENT_TOKEN]"')
INSERT INTO `InstallExecuteSequence` (`Action`, `Condition`, `Sequence`) VALUES ('LayToken', 'ENROLLMENT_TOKEN AND NOT REMOVE', 5750)
