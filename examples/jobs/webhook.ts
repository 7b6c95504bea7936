/**
 * A consumer of webhooks: the sender repeats what it had no answer to, and each event is booked once.
 *
 *     node --import tsx examples/jobs/webhook.ts [postgres://... | file.sqlite] evt_1=100 evt_2=50 evt_1=100
 */
import { isTransactionAborted } from '../../src/index.ts'
import { db, end, locks } from './database.ts'

/** As a handler of requests would call it. */
async function receive(event: string, amount: number): Promise<'booked' | 'known'> {
  for (;;) {
    try {
      return await db.transaction().execute(async (tx) => {
        const { ran } = await locks.within(tx).once(`webhook:${event}`, { keepFor: '7d' }, async () => {
          await tx.insertInto('events').values({ event, amount }).execute()
        })
        return ran ? 'booked' : 'known'
      })
    } catch (error) {
      // Another delivery of the same event was faster.
      if (!isTransactionAborted(error)) throw error
    }
  }
}

for (const delivery of process.argv.slice(3)) {
  const [event, amount] = delivery.split('=') as [string, string]
  console.log(event, await receive(event, Number(amount)))
}
await end()
