<#
.SYNOPSIS
Installs vcbmount for all users: the program, its service, and if wanted VCB's command names.

.DESCRIPTION
Run as administrator, in the folder that the archive was unpacked to. Running it again updates.

.PARAMETER To
Where to; C:\Program Files\vcbmount by default.

.PARAMETER VcbNames
Also makes vcbMounter.exe, vcbVmName.exe and the rest: hard links to vcbmount.exe, which acts by its name.

.PARAMETER NoService
Installs no service. The service puts right what a crashed backup has left when the host starts, and unmounts
what is still mounted before it stops.

.PARAMETER Uninstall
Removes all of it again. C:\ProgramData\vcbmount with configuration and sessions stays.

.NOTES
Everybody may read C:\ProgramData\vcbmount afterwards, but for the sessions in it, and administrators alone may change
it: the service obeys its configuration and runs its hooks.
#>
param(
    [string]$To = (Join-Path $env:ProgramFiles 'vcbmount'),
    [switch]$VcbNames,
    [switch]$NoService,
    [switch]$Uninstall
)
$ErrorActionPreference = 'Stop'
$service = 'vcbmount'
$names = 'vcbMounter', 'vcbVmName', 'vcbSnapshot', 'vcbSnapAll', 'vcbUtil', 'mountvm', 'vcbCleanup', 'pre-command', 'post-command'

function Stop-And-Remove-Service {
    if (Get-Service $service -ErrorAction SilentlyContinue) {
        Stop-Service $service -ErrorAction SilentlyContinue
        & sc.exe delete $service | Out-Null
    }
}

# Through the registry, because .NET would write what %SystemRoot% and the like stand for.
function Set-MachinePath([scriptblock]$Change) {
    $key = [Microsoft.Win32.Registry]::LocalMachine.OpenSubKey('SYSTEM\CurrentControlSet\Control\Session Manager\Environment', $true)
    $path = @($key.GetValue('Path', '', 'DoNotExpandEnvironmentNames') -split ';' | Where-Object { $_ -and $_ -ne $To })
    $key.SetValue('Path', (@(& $Change $path) -join ';'), 'ExpandString')
    $key.Close()
    # Tells running programs that the environment has changed.
    [Environment]::SetEnvironmentVariable('VCBMOUNT_INSTALLED', $null, 'Machine')
}

# Folders below ProgramData let every user add files, and the service would obey them.
function Protect-DataFolder {
    $data = Join-Path $env:ProgramData 'vcbmount'
    if (Test-Path $data) {
        $owner = (Get-Acl $data).GetOwner([Security.Principal.SecurityIdentifier]).Value
        $mine = [Security.Principal.WindowsIdentity]::GetCurrent().User.Value
        # The system, administrators, and whoever runs this.
        if ($owner -notin 'S-1-5-18', 'S-1-5-32-544', $mine) {
            throw "$data belongs to ${owner}: look at what is in it, remove it, and run this again"
        }
    } else {
        New-Item -ItemType Directory $data | Out-Null
    }
    & icacls.exe $data /inheritance:r /grant:r '*S-1-5-18:(OI)(CI)F' '*S-1-5-32-544:(OI)(CI)F' '*S-1-5-32-545:(OI)(CI)RX' | Out-Null
    if ($LASTEXITCODE -ne 0) { throw "icacls cannot say who may change $data" }
}

$principal = [Security.Principal.WindowsPrincipal][Security.Principal.WindowsIdentity]::GetCurrent()
if (-not $principal.IsInRole([Security.Principal.WindowsBuiltInRole]::Administrator)) { throw 'run this as administrator' }

if ($Uninstall) {
    Stop-And-Remove-Service
    Set-MachinePath { param($path) $path }
    if (Test-Path (Join-Path $To 'vcbmount.exe')) { Remove-Item -Recurse -Force $To }
    Write-Output "removed $To"
    return
}

Stop-And-Remove-Service
Protect-DataFolder
New-Item -ItemType Directory -Force $To | Out-Null
Copy-Item -Recurse -Force (Join-Path $PSScriptRoot '*') $To
$exe = Join-Path $To 'vcbmount.exe'
Set-MachinePath { param($path) @($path) + $To }

if ($VcbNames) {
    foreach ($name in $names) {
        $link = Join-Path $To "$name.exe"
        if (Test-Path $link) { Remove-Item -Force $link }
        New-Item -ItemType HardLink -Path $link -Target $exe | Out-Null
    }
}

if (-not $NoService) {
    New-Service -Name $service -BinaryPathName "`"$exe`" __service" -DisplayName 'vcbmount' -StartupType Automatic `
        -Description 'Puts right what crashed backups have left, and unmounts before the host stops.' | Out-Null
    Start-Service $service
}

$winfsp = 'HKLM:\SOFTWARE\WOW6432Node\WinFsp', 'HKLM:\SOFTWARE\WinFsp' | Where-Object { Test-Path $_ }
if (-not $winfsp) { Write-Warning 'WinFsp is not installed, and nothing can be mounted without it: https://winfsp.dev (winget install WinFsp.WinFsp)' }
& $exe doctor
Write-Output "installed $To"
