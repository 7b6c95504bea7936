/**
 * An order is locked and its ledger written, in one commit; and a worker that comes back too late is refused.
 *
 *     node --import tsx examples/drizzle.ts postgres://user:password@localhost/database
 */
import { randomUUID } from 'node:crypto'
import { eq, sql } from 'drizzle-orm'
import { drizzle } from 'drizzle-orm/node-postgres'
import { pgTable, text } from 'drizzle-orm/pg-core'
import pg from 'pg'
import { fromDrizzle } from '../src/adapters/drizzle.ts'
import { createLocks, LockLostError } from '../src/index.ts'

const url = process.argv[2] ?? process.env.DATABASE_URL
if (url === undefined) throw new Error('say which database: examples/drizzle.ts postgres://...')

const pool = new pg.Pool({ connectionString: url })
const db = drizzle(pool)
const locks = createLocks(fromDrizzle(db), { ttl: '30s' })
await locks.migrate()

const ledger = pgTable('ledger', { order: text('order_id'), entry: text('entry') })
await db.execute(sql`create table if not exists ledger (order_id text, entry text)`)

const order = randomUUID()

// The lock lasts as long as the transaction: nobody else has the order until its payment is there to be seen.
await db.transaction(async (tx) => {
  await locks.within(tx).acquire(`order:${order}`)
  await tx.insert(ledger).values({ order, entry: 'paid' })
})

// A lease lasts longer than one transaction. This worker stalls, and an operator takes the order away from it ...
const zombie = await locks.acquire(`order:${order}`)
await locks.forceRelease(`order:${order}`)

// ... so that another one can ship it.
await locks.run(`order:${order}`, {}, (lease) =>
  db.transaction(async (tx) => {
    await lease.guard(tx)
    await tx.insert(ledger).values({ order, entry: 'shipped' })
  }),
)

// The first worker wakes up and believes that it still has the order. Its guard knows better, and nothing is committed.
try {
  await db.transaction(async (tx) => {
    await tx.insert(ledger).values({ order, entry: 'shipped again' })
    await zombie.guard(tx)
  })
} catch (error) {
  if (!(error instanceof LockLostError)) throw error
  console.log(error.message)
}

const entries = await db.select().from(ledger).where(eq(ledger.order, order))
console.log(`ledger: ${entries.map(({ entry }) => entry).join(', ')}`)

await locks.close()
await pool.end()
