import { describe, expect, inject, it } from 'vitest'
import { createLocks } from '../../src/index.ts'
import { connectors } from '../adapters.ts'
import { connect, createDatabase } from '../connect.ts'
import { freshName } from '../engines.ts'

const servers = inject('servers').filter(({ engine }) => engine === 'postgres')

describe.each(servers)('search_path on $name', (server) => {
  /** A database with two schemas, in each of which the tables are where a search_path led to. */
  async function setUp() {
    const database = await createDatabase(server)
    const admin = await connect(database.url)
    const connectedTo = (schema: string) => {
      const url = new URL(database.url)
      url.searchParams.set('options', `-c search_path=${schema}`)
      return connectors.pg(url.href)
    }
    const [one, two] = [connectedTo('one'), connectedTo('two')]
    for (const [schema, connected] of [
      ['one', one],
      ['two', two],
    ] as const) {
      await admin.query(`create schema ${schema}`)
      await createLocks(connected.adapter).migrate()
    }
    const close = async () => {
      await one.close()
      await two.close()
      await admin.close()
      await database.drop()
    }
    return { one, two, close }
  }

  it('a transaction with another search_path locks, guards and releases in the tables of its instance', async () => {
    const { one, close } = await setUp()
    const locks = createLocks(one.adapter)
    const [held, guarded, released] = [freshName(), freshName(), freshName()]
    const leases = [await locks.acquire(guarded), await locks.acquire(released)]
    await one.transaction(async (tx) => {
      await one.sql('set local search_path = two', tx)
      await locks.within(tx).acquire(held)
      expect(await locks.tryAcquire(held)).toBeNull()
      await leases[0]!.guard(tx)
      expect(await locks.within(tx).tryAcquire(guarded)).toBeNull()
      expect(await leases[1]!.release(tx)).toBe(true)
    })
    expect(await leases[0]!.release()).toBe(true)
    expect(await locks.inspect(released)).toBeNull()
    await locks.close()
    await close()
  })

  it('an instance with a schema of its own uses the tables there, whatever the path', async () => {
    const { one, two, close } = await setUp()
    const locks = createLocks(two.adapter, { schema: 'one' })
    const there = createLocks(one.adapter)
    const [name, other] = [freshName(), freshName()]
    const lease = await locks.acquire(other)
    await two.transaction(async (tx) => {
      await locks.within(tx).acquire(name)
      expect(await locks.tryAcquire(name)).toBeNull()
      expect(await there.tryAcquire(name)).toBeNull()
      expect(await locks.within(tx).tryAcquire(other)).toBeNull()
      await lease.guard(tx)
    })
    expect(await lease.release()).toBe(true)
    await locks.close()
    await there.close()
    await close()
  })
})

describe.each(servers)('two applications in one database on $name', (server) => {
  it.each([
    ['by schema', { schema: 'one' }, { schema: 'two' }],
    ['by prefix', { tablePrefix: 'one_' }, { tablePrefix: 'two_' }],
    ['by the search_path of their users', 'one', 'two'],
  ])('that are apart %s create locks of one name at the same time', async (_, one, two) => {
    const database = await createDatabase(server)
    const admin = await connect(database.url)
    const apart = [one, two].map((naming) => {
      const url = new URL(database.url)
      if (typeof naming === 'string') url.searchParams.set('options', `-c search_path=${naming}`)
      const connected = connectors.pg(url.href)
      return { connected, locks: createLocks(connected.adapter, typeof naming === 'string' ? {} : naming) }
    })
    try {
      await admin.query('create schema one')
      await admin.query('create schema two')
      for (const { locks } of apart) await locks.migrate()
      const [first, second] = apart as [(typeof apart)[0], (typeof apart)[0]]
      const name = freshName()
      // Its row is being created until the transaction ends.
      await first.connected.transaction(async (tx) => {
        await first.locks.within(tx).acquire(name)
        const other = await second.locks.tryAcquire(name)
        expect(other).not.toBeNull()
        expect(await first.locks.tryAcquire(name)).toBeNull()
        await other?.release()
      })
    } finally {
      for (const { locks, connected } of apart) {
        await locks.close()
        await connected.close()
      }
      await admin.close()
      await database.drop()
    }
  })
})
