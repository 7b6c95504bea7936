import { describe, expect, inject, it } from 'vitest'
import { createLocks } from '../../src/index.ts'
import { connectors } from '../adapters.ts'
import { connect, createDatabase } from '../connect.ts'
import { freshName } from '../engines.ts'

const servers = inject('servers').filter(({ engine }) => engine === 'postgres')

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
