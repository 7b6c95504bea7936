import { writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { findProgram, installPackages } from '../servers/debian.ts'
import { startPrivateServer } from '../servers/private-server.ts'
import { type RunningServer, serverKinds } from '../servers/server.ts'

/** A PgBouncer in front of the server of a database URL. It pools transactions, so that a client's session is not its own. */
export async function startPgbouncer(target: string): Promise<RunningServer> {
  const { hostname, port, pathname } = new URL(target)
  const program = await findPgbouncer()
  return await startPrivateServer({
    kind: serverKinds.postgres18,
    programs: dirname(program),
    stopSignal: 'SIGTERM',
    initialise: () => ({ program: 'true', args: [] }),
    serve({ home }, listenPort) {
      const settings = join(home, 'pgbouncer.ini')
      const lines = [
        '[databases]',
        `* = host=${hostname} port=${port} user=postgres`,
        '[pgbouncer]',
        'listen_addr = 127.0.0.1',
        `listen_port = ${listenPort}`,
        'unix_socket_dir =',
        'auth_type = any',
        'pool_mode = transaction',
        'default_pool_size = 5',
        'max_client_conn = 100',
      ]
      writeFileSync(settings, `${lines.join('\n')}\n`)
      return { program, args: [settings] }
    },
    url: (listenPort) => `postgres://postgres@127.0.0.1:${listenPort}${pathname}`,
  })
}

async function findPgbouncer(): Promise<string> {
  if ((await findProgram('pgbouncer')) === null) await installPackages('pgbouncer')
  const program = await findProgram('pgbouncer')
  if (program === null) throw new Error("Debian's pgbouncer is installed, but its program is not found")
  return program
}
