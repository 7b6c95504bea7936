import { setTimeout as sleep } from 'node:timers/promises'
import mysql from 'mysql2/promise'
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest'
import { fromMysql2 } from '../../src/adapters/mysql2.ts'
import { fromPg } from '../../src/adapters/pg.ts'
import { createLocks, type Locks } from '../../src/index.ts'
import { createPgPool } from '../adapters.ts'
import { freshName, type OpenEngine } from '../engines.ts'
import { servedEngines, sharedEngines } from './one-per-engine.ts'
import { endProcesses, startWorker, type Worker } from './processes.ts'

const THREE_MINUTES = 180_000

afterAll(endProcesses)

describe.each(sharedEngines)('on $name', { concurrent: true, timeout: 90_000 }, (engine) => {
  let open: OpenEngine

  beforeAll(async () => {
    open = await engine.open()
  })

  afterAll(() => open.close())

  it('processes whose clocks are three minutes off, one ahead and one behind, agree on who holds a lock', async () => {
    const [ahead, behind] = await Promise.all([
      startWorker(engine, open.url, { clockError: THREE_MINUTES, env: { TZ: 'Pacific/Kiritimati' } }),
      startWorker(engine, open.url, { clockError: -THREE_MINUTES, env: { TZ: 'America/New_York' } }),
    ])
    await Promise.all([agree(ahead, behind), agree(behind, ahead)])
  })

  async function agree(first: Worker, second: Worker): Promise<void> {
    const name = freshName()
    const held = await first.call('acquire', name, { ttl: '1s' })
    const isRenewed = async () => (await first.call('eventTypes', name)).filter((type) => type === 'renewed').length > 2
    await vi.waitUntil(isRenewed, { timeout: 60_000 })
    expect(await second.call('tryAcquire', name)).toBe(null)
    const state = await second.call('inspect', name)
    expect(state?.token).toBe(held.token)
    expect(state?.expiresInMs).toBeGreaterThan(0)
    expect(state?.expiresInMs).toBeLessThanOrEqual(1000)
    await first.call('release', held.id)

    const forgotten = await first.call('acquire', name, { ttl: '1s', renew: false })
    const next = await second.call('acquire', name, { wait: '10s' })
    expect(await first.call('isHeld', forgotten.id)).toBe(false)
    expect(forgotten.token).toBeGreaterThan(held.token)
    expect(next.token).toBeGreaterThan(forgotten.token)
    // Microseconds by the database's clock, which is that of this process.
    expect(Math.abs(Number(next.token) / 1000 - Date.now())).toBeLessThan(THREE_MINUTES / 3)
  }
})

interface Zone {
  readonly name: string
  /** Seconds that its clocks are ahead of UTC now. */
  offset(): Promise<number>
  readonly locks: Locks<unknown>
  close(): Promise<void>
}

describe.each(servedEngines)('on $name', { concurrent: true, timeout: 90_000 }, (engine) => {
  const isPostgres = engine.engine === 'postgres'
  let open: OpenEngine
  const zones: Zone[] = []

  beforeAll(async () => {
    open = await engine.open()
  })

  afterAll(async () => {
    for (const zone of zones) {
      await zone.locks.close()
      await zone.close()
    }
    await open.close()
  })

  /** An instance all of whose sessions are in a time zone. */
  const inZone = async (name: string): Promise<Zone> => {
    const zone = isPostgres ? postgresZone(open.url, name) : mysqlZone(open.url, name)
    zones.push(zone)
    return zone
  }

  it('sessions at both ends of the world agree on who holds a lock', async () => {
    const east = await inZone(isPostgres ? 'Pacific/Kiritimati' : '+13:00')
    const west = await inZone(isPostgres ? 'Etc/GMT+12' : '-12:00')
    expect((await east.offset()) - (await west.offset())).toBeGreaterThanOrEqual(25 * 3600)
    await Promise.all([agree(east.locks, west.locks), agree(west.locks, east.locks)])
  })

  async function agree(first: Locks<unknown>, second: Locks<unknown>): Promise<void> {
    const name = freshName()
    const lease = await first.acquire(name, { ttl: '1s', renew: false })
    expect(await second.tryAcquire(name)).toBe(null)
    const state = await second.inspect(name)
    expect(state?.expiresInMs).toBeGreaterThan(0)
    expect(state?.expiresInMs).toBeLessThanOrEqual(1000)
    const next = await second.acquire(name, { wait: '10s' })
    expect(lease.isHeld()).toBe(false)
    expect(next.token).toBeGreaterThan(lease.token)
  }

  it.each([
    ['forward', 3600],
    ['back', -3600],
  ])('a lease outlives the moment when clocks go one hour %s, and lasts no longer for it', async (_, jump) => {
    const at = Math.floor(Date.now() / 1000) + 2
    const { locks: holders, offset } = await inZone(
      isPostgres ? postgresRule(at, jump) : await createMysqlZone(open, at, jump),
    )
    const others = await open.locks()
    const offsetBefore = await offset()
    const [lease, forgotten] = await Promise.all([
      holders.acquire(freshName(), { ttl: '3s' }),
      holders.acquire(freshName(), { ttl: '6s', renew: false }),
    ])
    await vi.waitUntil(async () => (await offset()) - offsetBefore === jump, { timeout: 60_000 })
    // Long enough for everybody to act on the new time.
    await sleep(1500)

    expect(lease.isHeld()).toBe(true)
    expect(await others.tryAcquire(lease.name)).toBe(null)
    const state = await holders.inspect(lease.name)
    expect(state?.expiresInMs).toBeGreaterThan(0)
    expect(state?.expiresInMs).toBeLessThanOrEqual(3000)
    expect(await lease.release()).toBe(true)
    const next = await holders.acquire(lease.name)
    expect(next.token).toBeGreaterThan(lease.token)
    expect((await others.acquire(forgotten.name, { wait: '10s' })).token).toBeGreaterThan(forgotten.token)
  })
})

function postgresZone(url: string, name: string): Zone {
  const pool = createPgPool({ connectionString: url, options: `-c TimeZone=${name}` })
  return {
    name,
    async offset() {
      const { rows } = await pool.query('select extract(timezone from clock_timestamp())::int as seconds')
      return rows[0].seconds
    },
    locks: createLocks(fromPg(pool)) as Locks<unknown>,
    close: () => pool.end(),
  }
}

function mysqlZone(url: string, name: string): Zone {
  const pool = mysql.createPool({ uri: url })
  pool.pool.on('connection', (connection) => connection.query(`set time_zone = '${name}'`))
  return {
    name,
    async offset() {
      const [rows] = await pool.query('select timestampdiff(minute, utc_timestamp(), now()) * 60 as seconds')
      return Number((rows as { seconds: number }[])[0]?.seconds)
    },
    locks: createLocks(fromMysql2(pool)) as Locks<unknown>,
    close: () => pool.end(),
  }
}

/** A zone at UTC+0 whose clocks change by an hour at that moment: a POSIX rule with that very second in it. */
function postgresRule(at: number, jump: number): string {
  const day = (seconds: number) => {
    const date = new Date(seconds * 1000)
    // Days of a year that is not a leap year.
    return (Date.UTC(2001, date.getUTCMonth(), date.getUTCDate()) - Date.UTC(2001, 0, 0)) / 86_400_000
  }
  const midnight = Math.floor(at / 86_400) * 86_400
  const seconds = at - midnight + (jump < 0 ? 3600 : 0)
  const time = [Math.floor(seconds / 3600), Math.floor(seconds / 60) % 60, seconds % 60].join(':')
  const thisDay = `J${day(at)}/${time}`
  const anotherDay = `J${day(at - 100 * 86_400)}`
  return `STD0DST-1,${jump > 0 ? `${thisDay},${anotherDay}` : `${anotherDay},${thisDay}`}`
}

/** The same as rows of the server's zone tables. */
async function createMysqlZone({ connected }: OpenEngine, at: number, jump: number): Promise<string> {
  const name = `rowlock/${freshName()}`
  await connected.transaction(async (tx) => {
    await connected.sql("insert into mysql.time_zone (use_leap_seconds) values ('N')", tx)
    await connected.sql('set @zone = last_insert_id()', tx)
    await connected.sql(`insert into mysql.time_zone_name values ('${name}', @zone)`, tx)
    await connected.sql(
      `insert into mysql.time_zone_transition_type values (@zone, 0, 0, 0, 'STD'), (@zone, 1, 3600, 1, 'DST')`,
      tx,
    )
    const [before, after] = jump > 0 ? [0, 1] : [1, 0]
    await connected.sql(
      `insert into mysql.time_zone_transition values (@zone, ${at - 8_640_000}, ${before}), (@zone, ${at}, ${after})`,
      tx,
    )
  })
  return name
}
