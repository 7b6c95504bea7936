/**
 * An order is locked and its ledger written, in one commit; and a worker that comes back too late is refused.
 *
 *     node --import tsx examples/postgres-js.ts postgres://user:password@localhost/database
 */
import { randomUUID } from 'node:crypto'
import postgres from 'postgres'
import { fromPostgresJs } from '../src/adapters/postgres-js.ts'
import { createLocks, LockLostError } from '../src/index.ts'

const url = process.argv[2] ?? process.env.DATABASE_URL
if (url === undefined) throw new Error('say which database: examples/postgres-js.ts postgres://...')

const sql = postgres(url, { onnotice: () => undefined })
const locks = createLocks(fromPostgresJs(sql), { ttl: '30s' })
await locks.migrate()
await sql`create table if not exists ledger (order_id text, entry text)`

const order = randomUUID()

// The lock lasts as long as the transaction: nobody else has the order until its payment is there to be seen.
await sql.begin(async (tx) => {
  await locks.within(tx).acquire(`order:${order}`)
  await tx`insert into ledger values (${order}, 'paid')`
})

// A lease lasts longer than one transaction. This worker stalls, and an operator takes the order away from it ...
const zombie = await locks.acquire(`order:${order}`)
await locks.forceRelease(`order:${order}`)

// ... so that another one can ship it.
await locks.run(`order:${order}`, {}, (lease) =>
  sql.begin(async (tx) => {
    await lease.guard(tx)
    await tx`insert into ledger values (${order}, 'shipped')`
  }),
)

// The first worker wakes up and believes that it still has the order. Its guard knows better, and nothing is committed.
try {
  await sql.begin(async (tx) => {
    await tx`insert into ledger values (${order}, 'shipped again')`
    await zombie.guard(tx)
  })
} catch (error) {
  if (!(error instanceof LockLostError)) throw error
  console.log(error.message)
}

const entries = await sql`select entry from ledger where order_id = ${order}`
console.log(`ledger: ${entries.map(({ entry }) => entry).join(', ')}`)

await locks.close()
await sql.end()
