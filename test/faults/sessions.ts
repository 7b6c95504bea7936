import type { TestConnection } from '../connect.ts'
import type { Dialect } from './work.ts'

/** The sessions of each worker can be told apart on the server: by name on PostgreSQL, by user on MySQL. */
export function withSessionName(url: string, dialect: Dialect, place: number): string {
  if (dialect === 'sqlite') return url
  const named = new URL(url)
  if (dialect === 'postgres') named.searchParams.set('application_name', sessionName(place))
  else named.username = sessionName(place)
  return named.href
}

export async function createSessionUsers(connection: TestConnection, dialect: Dialect, places: number): Promise<void> {
  if (dialect !== 'mysql') return
  for (let place = 0; place < places; place++) {
    await connection.query(`create user if not exists '${sessionName(place)}'@'%'`)
    await connection.query(`grant all privileges on *.* to '${sessionName(place)}'@'%'`)
  }
}

/** Ends all sessions of a worker, from the server's side; answers how many. */
export async function killSessions(connection: TestConnection, dialect: Dialect, place: number): Promise<number> {
  if (dialect === 'postgres') {
    const killed = await connection.query(
      `select pg_terminate_backend(pid) from pg_stat_activity where application_name = '${sessionName(place)}'`,
    )
    return killed.length
  }
  const sessions = await connection.query(
    `select id as id from information_schema.processlist where user = '${sessionName(place)}'`,
  )
  const endings = await Promise.all(sessions.map(({ id }) => killMysqlSession(connection, Number(id))))
  return endings.filter(Boolean).length
}

const NO_SUCH_THREAD = 'ER_NO_SUCH_THREAD'

async function killMysqlSession(connection: TestConnection, id: number): Promise<boolean> {
  try {
    await connection.query(`kill ${id}`)
    return true
  } catch (error) {
    if ((error as { code?: string }).code !== NO_SUCH_THREAD) throw error
    return false
  }
}

/** By which the server knows this connection. */
export async function sessionId(connection: TestConnection, dialect: Dialect): Promise<number> {
  const [row] = await connection.query(
    dialect === 'postgres' ? 'select pg_backend_pid() as id' : 'select connection_id() as id',
  )
  return Number(row?.id)
}

/** Whether another session waits for a row that this one has locked. */
export async function isWaitedFor(observer: TestConnection, dialect: Dialect, id: number): Promise<boolean> {
  const waiting = await observer.query(
    dialect === 'postgres'
      ? `select 1 from pg_stat_activity where wait_event_type = 'Lock' and ${id} = any(pg_blocking_pids(pid))`
      : `select 1 from sys.innodb_lock_waits where blocking_pid = ${id}`,
  )
  return waiting.length > 0
}

function sessionName(place: number): string {
  return `worker_${place}`
}
