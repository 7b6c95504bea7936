import { onEveryEngine } from './harness.ts'
import { severalSuite } from './several.ts'

onEveryEngine({ 'several locks': severalSuite })
