/**
 * An order is locked and its ledger written, in one commit; and a worker that comes back too late is refused.
 *
 *     node --import tsx examples/typeorm.ts [postgres://... | mysql://... | file.sqlite]
 */
import { randomUUID } from 'node:crypto'
import { DataSource, type DataSourceOptions, EntitySchema } from 'typeorm'
import { fromTypeorm } from '../src/adapters/typeorm.ts'
import { createLocks, LockLostError } from '../src/index.ts'

const Ledger = new EntitySchema<{ id: number; order: string; entry: string }>({
  name: 'ledger',
  columns: {
    id: { type: 'int', primary: true, generated: true },
    order: { type: 'varchar' },
    entry: { type: 'varchar' },
  },
})

const dataSource = new DataSource(configuration(process.argv[2] ?? process.env.DATABASE_URL ?? ':memory:'))
await dataSource.initialize()
const locks = createLocks(fromTypeorm(dataSource), { ttl: '30s' })
await locks.migrate()

const order = randomUUID()

// The lock lasts as long as the transaction: nobody else has the order until its payment is there to be seen.
await dataSource.transaction(async (manager) => {
  await locks.within(manager).acquire(`order:${order}`)
  await manager.insert(Ledger, { order, entry: 'paid' })
})

// A lease lasts longer than one transaction. This worker stalls, and an operator takes the order away from it ...
const zombie = await locks.acquire(`order:${order}`)
await locks.forceRelease(`order:${order}`)

// ... so that another one can ship it.
await locks.run(`order:${order}`, {}, (lease) =>
  dataSource.transaction(async (manager) => {
    await lease.guard(manager)
    await manager.insert(Ledger, { order, entry: 'shipped' })
  }),
)

// The first worker wakes up and believes that it still has the order. Its guard knows better, and nothing is committed.
try {
  await dataSource.transaction(async (manager) => {
    await manager.insert(Ledger, { order, entry: 'shipped again' })
    await zombie.guard(manager)
  })
} catch (error) {
  if (!(error instanceof LockLostError)) throw error
  console.log(error.message)
}

const entries = await dataSource.manager.find(Ledger, { where: { order }, order: { id: 'asc' } })
console.log(`ledger: ${entries.map(({ entry }) => entry).join(', ')}`)

await locks.close()
await dataSource.destroy()

function configuration(url: string): DataSourceOptions {
  // In an application, migrations make the tables.
  const common = { entities: [Ledger], synchronize: true }
  if (url.startsWith('postgres')) return { ...common, type: 'postgres', url }
  if (url.startsWith('mysql')) return { ...common, type: 'mysql', url }
  return { ...common, type: 'better-sqlite3', database: url }
}
