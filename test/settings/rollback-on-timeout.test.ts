import { setTimeout as sleep } from 'node:timers/promises'
import mysql from 'mysql2/promise'
import { afterAll, beforeAll, describe, expect, inject, it } from 'vitest'
import { fromMysql2 } from '../../src/adapters/mysql2.ts'
import { createLocks, type Locks } from '../../src/index.ts'
import { freshName } from '../engines.ts'
import { startMariadb, startMysql } from '../servers/mysql.ts'
import type { RunningServer } from '../servers/server.ts'

const SETTING = '--innodb-rollback-on-timeout=ON'
const starts: Partial<Record<string, () => Promise<RunningServer>>> = {
  mysql: () => startMysql(undefined, [SETTING]),
  mariadb: () => startMariadb(undefined, [SETTING]),
}
// A server in Docker, or somebody else's, has the setting that it was started with.
const privateServers = inject('servers').filter(({ name, pid }) => starts[name] !== undefined && pid !== null)

/** After a wait for a row that took too long, such a server rolls back the transaction and not the statement alone. */
describe.each(privateServers)('innodb_rollback_on_timeout on $name', { timeout: 60_000 }, ({ name: serverName }) => {
  let server: RunningServer
  let pool: mysql.Pool
  let locks: Locks<mysql.Connection>

  beforeAll(async () => {
    server = await starts[serverName]!()
    pool = mysql.createPool({ uri: server.url })
    pool.pool.on('connection', (connection) => connection.query('set session innodb_lock_wait_timeout = 1', () => {}))
    locks = createLocks(fromMysql2(pool))
    await locks.migrate()
    await pool.query('create table entries (name varchar(100))')
  })

  afterAll(async () => {
    await locks?.close()
    await pool?.end()
    await server?.stop()
  })

  async function transaction(body: (tx: mysql.PoolConnection) => Promise<void>): Promise<void> {
    const tx = await pool.getConnection()
    try {
      await tx.beginTransaction()
      await body(tx)
      await tx.commit()
    } finally {
      tx.release()
    }
  }

  async function entries(name: string): Promise<number> {
    const [rows] = await pool.query<mysql.RowDataPacket[]>('select name from entries where name = ?', [name])
    return rows.length
  }

  const insert = (tx: mysql.Connection, name: string) => tx.query('insert into entries values (?)', [name])

  async function besideOneThatHas(name: string, body: () => Promise<void>): Promise<void> {
    let end!: () => void
    const ending = new Promise<void>((resolve) => {
      end = resolve
    })
    let taken!: () => void
    const taking = new Promise<void>((resolve) => {
      taken = resolve
    })
    const holding = transaction(async (tx) => {
      await locks.within(tx).acquire(name)
      taken()
      await ending
    })
    await Promise.race([taking, holding])
    try {
      await body()
    } finally {
      end()
      await holding
    }
  }

  it('is on', async () => {
    const [[row]] = await pool.query<mysql.RowDataPacket[]>('select @@innodb_rollback_on_timeout as setting')
    expect(Number(row?.setting)).toBe(1)
  })

  it('a wait that is over leaves a transaction of which nothing is lost', async () => {
    const name = freshName()
    await besideOneThatHas(name, async () => {
      await transaction(async (tx) => {
        await insert(tx, name)
        // Longer than the session lets other statements wait.
        await expect(locks.within(tx).acquire(name, { wait: 1800 })).rejects.toMatchObject({ code: 'LOCK_TIMEOUT' })
        expect(await locks.within(tx).tryAcquire(name)).toBeNull()
        await insert(tx, name)
      })
    })
    expect(await entries(name)).toBe(2)
  })

  it('a wait that is served, too', async () => {
    const name = freshName()
    let waiting: Promise<void> | undefined
    await besideOneThatHas(name, async () => {
      waiting = transaction(async (tx) => {
        await insert(tx, name)
        await locks.within(tx).acquire(name, { wait: '20s' })
        await insert(tx, name)
      })
      await sleep(1500)
    })
    await waiting
    expect(await entries(name)).toBe(2)
  })
})
