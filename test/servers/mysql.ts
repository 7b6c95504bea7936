import { mkdir, rename, rm } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { cached } from './cache.ts'
import { type Command, runCommand, succeeds } from './command.ts'
import { findProgram, installPackages } from './debian.ts'
import { type Recipe, startPrivateServer } from './private-server.ts'
import { type RunningServer, serverKinds } from './server.ts'

type MariadbPrograms = { server: string; installer: string }

const libraries = 'usr/lib/x86_64-linux-gnu'

/**
 * Debian's stable releases have no MySQL, but unstable has. Its server, with the libraries it needs, is taken out of a small
 * system of that release.
 */
export async function prepareMysql(): Promise<string> {
  return await cached('mysql', 'MySQL from Debian unstable', async (draft) => {
    if (process.getuid?.() !== 0) throw new Error('only root can take it from a Debian system made by debootstrap')
    if ((await findProgram('debootstrap')) === null) await installPackages('debootstrap', 'debian-archive-keyring')
    const system = join(draft, 'system')
    await runCommand(await debootstrap(system))
    for (const part of ['usr/sbin/mysqld', 'usr/lib/mysql', 'usr/share/mysql', libraries]) {
      await mkdir(dirname(join(draft, part)), { recursive: true })
      await rename(join(system, part), join(draft, part))
    }
    await rm(system, { recursive: true })
    await runCommand(mysqld(draft, ['--no-defaults', '--version']))
  })
}

export async function prepareMariadb(): Promise<MariadbPrograms> {
  const installed = await findMariadb()
  if (installed !== null) return installed
  // Without mariadb-server, which would start a server of its own.
  await installPackages('mariadb-server-core', 'mariadb-client-core')
  const programs = await findMariadb()
  if (programs === null) throw new Error("Debian's mariadb-server-core is installed, but mariadbd is not found")
  return programs
}

export async function startMysql(env?: NodeJS.ProcessEnv, options: readonly string[] = []): Promise<RunningServer> {
  const recipe: Recipe = {
    kind: serverKinds.mysql,
    programs: await prepareMysql(),
    stopSignal: 'SIGTERM',
    initialise: ({ programs, data }) =>
      mysqld(programs, [
        '--no-defaults',
        '--initialize-insecure',
        `--basedir=${join(programs, 'usr')}`,
        `--datadir=${data}`,
        '--secure-file-priv=NULL',
      ]),
    serve: ({ programs, data, home }, port) =>
      mysqld(programs, [
        '--no-defaults',
        `--basedir=${join(programs, 'usr')}`,
        `--datadir=${data}`,
        `--port=${port}`,
        '--bind-address=127.0.0.1',
        `--socket=${join(home, 'socket')}`,
        `--pid-file=${join(home, 'pid')}`,
        '--secure-file-priv=NULL',
        '--mysqlx=OFF',
        '--max-connections=300',
        ...options,
      ]),
    url: mysqlUrl,
  }
  return await startPrivateServer(recipe, env)
}

export async function startMariadb(env?: NodeJS.ProcessEnv, options: readonly string[] = []): Promise<RunningServer> {
  const { server, installer } = await prepareMariadb()
  const recipe: Recipe = {
    kind: serverKinds.mariadb,
    programs: dirname(server),
    stopSignal: 'SIGTERM',
    initialise: ({ data }) => ({
      program: installer,
      args: [
        '--no-defaults',
        `--datadir=${data}`,
        '--auth-root-authentication-method=normal',
        '--skip-test-db',
        '--skip-name-resolve',
      ],
    }),
    serve: ({ data, home }, port) => ({
      program: server,
      args: [
        '--no-defaults',
        `--datadir=${data}`,
        `--port=${port}`,
        '--bind-address=127.0.0.1',
        `--socket=${join(home, 'socket')}`,
        `--pid-file=${join(home, 'pid')}`,
        '--max-connections=300',
        ...options,
      ],
    }),
    url: mysqlUrl,
  }
  return await startPrivateServer(recipe, env)
}

function mysqlUrl(port: number): string {
  return `mysql://root@127.0.0.1:${port}/mysql`
}

/** mysqld under the loader and the libraries it was built for, which are newer than this machine's. */
export function mysqld(directory: string, args: string[]): Command {
  return {
    program: join(directory, libraries, 'ld-linux-x86-64.so.2'),
    args: ['--library-path', join(directory, libraries), join(directory, 'usr/sbin/mysqld'), ...args],
  }
}

async function debootstrap(target: string): Promise<Command> {
  if (process.arch !== 'x64') throw new Error('only its build for x64 is known here')
  const args = ['--variant=minbase', '--include=mysql-server-core', 'sid', target, 'http://deb.debian.org/debian']
  // In namespaces of its own nothing that it mounts or starts stays behind when it is interrupted.
  const isolation = ['--mount', '--pid', '--fork', '--kill-child']
  if (!(await succeeds({ program: 'unshare', args: [...isolation, 'true'] }))) return { program: 'debootstrap', args }
  return { program: 'setpriv', args: ['--pdeathsig=KILL', 'unshare', ...isolation, 'debootstrap', ...args] }
}

async function findMariadb(): Promise<MariadbPrograms | null> {
  const server = await findProgram('mariadbd')
  const installer = await findProgram('mariadb-install-db')
  return server === null || installer === null ? null : { server, installer }
}
