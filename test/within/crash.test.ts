import { afterAll, beforeAll, describe, expect, inject, it } from 'vitest'
import { createLocks, type Locks } from '../../src/index.ts'
import { type Connected, connectors } from '../adapters.ts'
import { createDatabase, query } from '../connect.ts'
import { freshName } from '../engines.ts'
import { type RunningServer, startServer } from '../servers/index.ts'

/** Servers of this test's own, since it kills them: only where the run has binaries to start one from. */
const crashable = inject('servers').filter(({ pid, name }) => pid !== null && name !== 'postgres15')

describe.each(crashable)('when $name is killed and started again', ({ name, engine }) => {
  let server: RunningServer
  let url: string
  let connected: Connected
  let locks: Locks<unknown>

  beforeAll(async () => {
    server = await startServer(name)
    url = (await createDatabase(server)).url
    connected = engine === 'postgres' ? connectors.pg(url) : connectors.mysql2(url)
    locks = createLocks(connected.adapter, { ttl: '60s', wait: '20s' })
    await locks.migrate()
    await connected.sql(`create table written (what ${engine === 'postgres' ? 'text' : 'varchar(100)'})`)
  })
  afterAll(async () => {
    await locks.close()
    await connected.close()
    await server.stop()
  })

  const written = async (what: string) => (await query(url, `select what from written where what = '${what}'`)).length

  it('a lock and a write of a transaction that had not committed are both gone', async () => {
    const lock = freshName()
    let token = 0n
    const attempt = connected.transaction(async (tx) => {
      token = (await locks.within(tx).acquire(lock)).token
      await connected.sql(`insert into written (what) values ('${lock}')`, tx)
      await server.crash?.()
    })
    await expect(attempt).rejects.toThrow()
    const lease = await locks.acquire(lock)
    expect(await written(lock)).toBe(0)
    expect(lease.token).toBeGreaterThan(token)
    expect(await lease.release()).toBe(true)
  })

  it('a lease and a write of a transaction that had committed are both there, and so is a lease taken before', async () => {
    const [lock, other] = [freshName(), freshName()]
    const pending = await connected.transaction(async (tx) => {
      await connected.sql(`insert into written (what) values ('${lock}')`, tx)
      return locks.within(tx).lease(lock, { ttl: '60s' })
    })
    const before = await locks.acquire(other)
    await server.crash?.()
    expect(await written(lock)).toBe(1)
    const lease = await pending.confirm()
    expect(lease.token).toBe(pending.token)
    expect(await locks.tryAcquire(other)).toBeNull()
    await connected.transaction(async (tx) => {
      await before.guard(tx)
      await lease.guard(tx)
    })
    expect(await before.release()).toBe(true)
    const next = await locks.acquire(other)
    expect(next.token).toBeGreaterThan(before.token)
  })
})
