/**
 * An order is locked and its ledger written, in one commit; and a worker that comes back too late is refused.
 *
 *     node --import tsx examples/mikro-orm.ts [postgres://... | mysql://... | file.sqlite]
 */
import { randomUUID } from 'node:crypto'
import { BetterSqliteDriver } from '@mikro-orm/better-sqlite'
import { EntitySchema, MikroORM, type Options } from '@mikro-orm/core'
import { MySqlDriver } from '@mikro-orm/mysql'
import { PostgreSqlDriver } from '@mikro-orm/postgresql'
import { fromMikroOrm } from '../src/adapters/mikro-orm.ts'
import { createLocks, LockLostError } from '../src/index.ts'

const Ledger = new EntitySchema<{ id: number; order: string; entry: string }>({
  name: 'Ledger',
  properties: {
    id: { type: 'number', primary: true, autoincrement: true },
    order: { type: 'string' },
    entry: { type: 'string' },
  },
})

const orm = await MikroORM.init(configuration(process.argv[2] ?? process.env.DATABASE_URL ?? ':memory:'))
// In an application, migrations make the tables; these ignore those of rowlock.
await orm.schema.createSchema()
const locks = createLocks(fromMikroOrm(orm), { ttl: '30s' })
await locks.migrate()

// Each request, or job, has an EntityManager of its own.
const em = orm.em.fork()
const order = randomUUID()

// The lock lasts as long as the transaction: nobody else has the order until its payment is there to be seen.
await em.transactional(async (tx) => {
  await locks.within(tx).acquire(`order:${order}`)
  tx.create(Ledger, { order, entry: 'paid' })
})

// A lease lasts longer than one transaction. This worker stalls, and an operator takes the order away from it ...
const zombie = await locks.acquire(`order:${order}`)
await locks.forceRelease(`order:${order}`)

// ... so that another one can ship it.
await locks.run(`order:${order}`, {}, (lease) =>
  em.transactional(async (tx) => {
    await lease.guard(tx)
    tx.create(Ledger, { order, entry: 'shipped' })
  }),
)

// The first worker wakes up and believes that it still has the order. Its guard knows better, and nothing is committed.
try {
  await em.fork().transactional(async (tx) => {
    tx.create(Ledger, { order, entry: 'shipped again' })
    await tx.flush()
    await zombie.guard(tx)
  })
} catch (error) {
  if (!(error instanceof LockLostError)) throw error
  console.log(error.message)
}

const entries = await orm.em.fork().find(Ledger, { order }, { orderBy: { id: 'asc' } })
console.log(`ledger: ${entries.map(({ entry }) => entry).join(', ')}`)

await locks.close()
await orm.close()

function configuration(url: string): Options {
  const entities = [Ledger]
  if (url.startsWith('postgres')) return { entities, driver: PostgreSqlDriver, clientUrl: url }
  if (url.startsWith('mysql')) return { entities, driver: MySqlDriver, clientUrl: url }
  return { entities, driver: BetterSqliteDriver, dbName: url }
}
