import { onEveryEngine } from './harness.ts'
import { tokensSuite } from './tokens.ts'

onEveryEngine({ tokens: tokensSuite })
