/**
 * An order is locked and its ledger written, in one commit; and a worker that comes back too late is refused.
 *
 *     node --import tsx examples/knex.ts [postgres://... | mysql://... | file.sqlite]
 */
import { randomUUID } from 'node:crypto'
import createKnex from 'knex'
import { fromKnex } from '../src/adapters/knex.ts'
import { createLocks, LockLostError } from '../src/index.ts'

const knex = createKnex(configuration(process.argv[2] ?? process.env.DATABASE_URL ?? ':memory:'))
const locks = createLocks(fromKnex(knex), { ttl: '30s' })
await locks.migrate()
if (!(await knex.schema.hasTable('ledger'))) {
  await knex.schema.createTable('ledger', (table) => {
    table.string('order')
    table.string('entry')
  })
}

const order = randomUUID()

// The lock lasts as long as the transaction: nobody else has the order until its payment is there to be seen.
await knex.transaction(async (tx) => {
  await locks.within(tx).acquire(`order:${order}`)
  await tx('ledger').insert({ order, entry: 'paid' })
})

// A lease lasts longer than one transaction. This worker stalls, and an operator takes the order away from it ...
const zombie = await locks.acquire(`order:${order}`)
await locks.forceRelease(`order:${order}`)

// ... so that another one can ship it.
await locks.run(`order:${order}`, {}, (lease) =>
  knex.transaction(async (tx) => {
    await lease.guard(tx)
    await tx('ledger').insert({ order, entry: 'shipped' })
  }),
)

// The first worker wakes up and believes that it still has the order. Its guard knows better, and nothing is committed.
try {
  await knex.transaction(async (tx) => {
    await tx('ledger').insert({ order, entry: 'shipped again' })
    await zombie.guard(tx)
  })
} catch (error) {
  if (!(error instanceof LockLostError)) throw error
  console.log(error.message)
}

const entries = await knex('ledger').where({ order }).pluck('entry')
console.log(`ledger: ${entries.join(', ')}`)

await locks.close()
await knex.destroy()

function configuration(url: string) {
  if (url.startsWith('postgres')) return { client: 'pg', connection: url }
  if (url.startsWith('mysql')) return { client: 'mysql2', connection: url }
  return { client: 'better-sqlite3', connection: { filename: url }, useNullAsDefault: true }
}
