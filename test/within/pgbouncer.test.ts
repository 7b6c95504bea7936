import { afterAll, beforeAll, describe, expect, inject, it } from 'vitest'
import { createLocks, type Locks } from '../../src/index.ts'
import { type Connected, connectors } from '../adapters.ts'
import { createDatabase, type TestDatabase } from '../connect.ts'
import { freshName } from '../engines.ts'
import { startPgbouncer } from '../race/pgbouncer.ts'
import type { RunningServer } from '../servers/index.ts'

const postgres = inject('servers').filter(({ name }) => name === 'postgres18')

describe.each(postgres)('through PgBouncer, which pools transactions, to $name', (server) => {
  let database: TestDatabase
  let bouncer: RunningServer
  let connected: Connected
  let other: Connected
  let locks: Locks<unknown>
  let others: Locks<unknown>

  beforeAll(async () => {
    database = await createDatabase(server)
    bouncer = await startPgbouncer(database.url)
    connected = connectors.pg(bouncer.url)
    other = connectors.pg(bouncer.url)
    locks = createLocks(connected.adapter, { ttl: '20s', wait: '15s' })
    others = createLocks(other.adapter, { ttl: '20s', wait: '15s' })
    await locks.migrate()
    await connected.sql('create table written (what text)')
  })
  afterAll(async () => {
    await Promise.all([locks.close(), others.close()])
    await Promise.all([connected.close(), other.close()])
    await bouncer.stop()
    await database.drop()
  })

  it('leases, guards and guarded statements work, whatever server connection they get', async () => {
    for (let round = 0; round < 20; round++) {
      const name = freshName()
      const [lease, busy] = await Promise.all([locks.acquire(name), others.acquire(freshName())])
      expect(await others.tryAcquire(name)).toBeNull()
      await connected.transaction(async (tx) => {
        await lease.guard(tx)
        await lease.guarded(tx, { text: 'insert into written values ($1)', values: [name] })
      })
      expect(await lease.release()).toBe(true)
      expect(await busy.release()).toBe(true)
    }
    expect(await connected.sql('select count(*)::int as count from written')).toEqual([{ count: 20 }])
  })

  it('transactions hold locks, wait for each other and start leases', async () => {
    const name = freshName()
    const order: string[] = []
    let second: Promise<void> | undefined
    await connected.transaction(async (tx) => {
      await locks.within(tx).acquire(name)
      expect(await others.tryAcquire(name)).toBeNull()
      second = other.transaction(async (waiting) => {
        await others.within(waiting).acquire(name)
        order.push('second')
      })
      await new Promise((resolve) => setTimeout(resolve, 200))
      order.push('first')
    })
    await second
    expect(order).toEqual(['first', 'second'])
    const pending = await connected.transaction((tx) => locks.within(tx).lease(name))
    const lease = await pending.confirm()
    await connected.transaction((tx) => lease.release(tx))
    expect(await others.inspect(name)).toBeNull()
  })
})
