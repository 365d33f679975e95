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

function Set-MachinePath([scriptblock]$Change) {
    $path = [Environment]::GetEnvironmentVariable('Path', 'Machine') -split ';' | Where-Object { $_ -and $_ -ne $To }
    [Environment]::SetEnvironmentVariable('Path', ((& $Change $path) -join ';'), 'Machine')
}

if ($Uninstall) {
    Stop-And-Remove-Service
    Set-MachinePath { param($path) $path }
    if (Test-Path (Join-Path $To 'vcbmount.exe')) { Remove-Item -Recurse -Force $To }
    Write-Output "removed $To"
    return
}

Stop-And-Remove-Service
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
